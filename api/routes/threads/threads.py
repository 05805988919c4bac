"""`/threads`: make, find, look at, rename and delete conversations."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response

from api.auth import Project
from api.bodies import Body
from api.routes.threads.shapes import ASSISTANT, state_json, thread_json
from moatelier.errors import Conflict, InvalidRequest, NotFound
from store import tasks

router = APIRouter()
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
STATUSES = ("idle", "busy", "interrupted", "error")


def conversation(project: str, thread_id: str) -> tasks.Thread:
    """A thread that clients may see.

    Raises:
        NotFound: It is not there, or a task's own.
    """
    thread = tasks.get_thread(project, thread_id)
    if thread.graph != ASSISTANT:
        raise NotFound(f"There is no thread {thread_id}.", where=thread_id)
    return thread


def create(project: str, thread_id: str | None = None, metadata: dict[str, Any] | None = None) -> tasks.Thread:
    """A new conversation, or the one that has this id."""
    marked = {**(metadata or {}), "graph_id": ASSISTANT}
    return tasks.create_thread(project, id=thread_id, graph=ASSISTANT, metadata=marked)


def _metadata(body: dict[str, Any]) -> dict[str, Any]:
    metadata = body.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise InvalidRequest("Metadata is an object.", where="metadata")
    return metadata


def _number(body: dict[str, Any], name: str, default: int, most: int) -> int:
    value = body.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise InvalidRequest(f"`{name}` is a whole number from 0 to {most}.", where=name)
    return value


@router.post("/threads")
def create_thread(project: Project, body: Body) -> dict[str, Any]:
    """Make a thread; an id that is taken is refused unless `if_exists` is `do_nothing`."""
    wanted = body.get("thread_id")
    if wanted is not None and not (isinstance(wanted, str) and _ID.fullmatch(wanted)):
        raise InvalidRequest("A thread id is 1-64 letters, digits, `-` or `_`.", where="thread_id")
    if wanted is not None and body.get("if_exists", "raise") == "raise" and _exists(project, wanted):
        raise Conflict(f"There is a thread {wanted} already.", where="thread_id", remedy="Use another id.")
    return thread_json(create(project, wanted, _metadata(body)))


def _exists(project: str, thread_id: str) -> bool:
    try:
        tasks.get_thread(project, thread_id)
    except NotFound:
        return False
    return True


@router.post("/threads/search")
def search(project: Project, body: Body) -> list[dict[str, Any]]:
    """Conversations by status and metadata, newest first."""
    status = body.get("status")
    if status is not None and status not in STATUSES:
        remedy = f"Use one of {', '.join(STATUSES)}."
        raise InvalidRequest(f"There is no status {status!r}.", where="status", remedy=remedy)
    metadata = {**_metadata(body), "graph_id": ASSISTANT}
    limit, offset = _number(body, "limit", 10, 1000), _number(body, "offset", 0, 1_000_000_000)
    found = tasks.search_threads(project, status=status, metadata=metadata, limit=limit, offset=offset)
    return [thread_json(thread) for thread in found]


@router.get("/threads/{thread_id}")
def get_thread(thread_id: str, project: Project) -> dict[str, Any]:
    """One thread."""
    return thread_json(conversation(project, thread_id))


@router.patch("/threads/{thread_id}", response_model=None)
def patch_thread(
    thread_id: str, project: Project, body: Body, prefer: Annotated[str, Header()] = ""
) -> dict[str, Any] | Response:
    """Merge metadata."""
    thread = conversation(project, thread_id)
    metadata = {**thread.metadata, **_metadata(body), "graph_id": ASSISTANT}
    changed = tasks.update_thread(thread_id, metadata=metadata)
    return Response(status_code=204) if prefer == "return=minimal" else thread_json(changed)


@router.delete("/threads/{thread_id}", status_code=204)
def delete_thread(thread_id: str, project: Project) -> Response:
    """Delete a thread at rest whose task has ended; what the task made stays."""
    thread = conversation(project, thread_id)
    if thread.status == "busy":
        raise Conflict("The thread is busy.", where=thread_id, remedy="Cancel its run first.")
    if thread.task and not tasks.find_task(thread.task).ended:  # nobody could answer or cancel it any more
        raise Conflict("The thread's task has not ended.", where=thread.task, remedy="Cancel the task first.")
    tasks.delete_thread(project, thread_id)
    return Response(status_code=204)


@router.get("/threads/{thread_id}/state")
def get_state(thread_id: str, project: Project) -> dict[str, Any]:
    """Where the thread stands: its values and what it waits for."""
    return state_json(conversation(project, thread_id))
