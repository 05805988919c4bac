"""`/threads`: make, find, look at, rename, copy and delete conversations."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response

from api.auth import Project
from api.bodies import Body
from api.routes.threads.requests import check_assistant, read_choice, read_metadata, read_number
from api.routes.threads.shapes import ASSISTANT, selected, thread_json
from moatelier.errors import Conflict, InvalidRequest, NotFound
from store import states, tasks
from store.threads import SORTED

router = APIRouter()
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
STATUSES = ("idle", "busy", "interrupted", "error")
COPIED = ("messages", "files", "fresh_files")
"""Of a conversation's values: what was said and brought. Its task, and what that asks, stay with the original."""


def conversation(project: str, thread_id: str) -> tasks.Thread:
    """A thread that clients may see.

    Raises:
        NotFound: It is not there, or a task's own.
    """
    thread = tasks.get_thread(project, thread_id)
    if thread.graph != ASSISTANT:
        raise NotFound(f"There is no thread {thread_id}.", where=thread_id)
    return thread


def create(
    project: str, thread_id: str | None = None, metadata: dict[str, Any] | None = None, **more: Any
) -> tasks.Thread:
    """A new conversation, or the one that has this id."""
    marked = {**(metadata or {}), "graph_id": ASSISTANT}
    return tasks.create_thread(project, id=thread_id, graph=ASSISTANT, metadata=marked, **more)


@router.post("/threads")
def create_thread(project: Project, body: Body) -> dict[str, Any]:
    """Make a thread; an id that is taken is refused unless `if_exists` is `do_nothing`."""
    wanted, metadata = body.get("thread_id"), read_metadata(body)
    _refuse_times(body)
    if body.get("supersteps"):
        raise InvalidRequest("A thread begins empty.", where="supersteps", remedy="Say what was said, run by run.")
    if "graph_id" in metadata:
        check_assistant({"assistant_id": metadata["graph_id"]})
    if wanted is not None and not (isinstance(wanted, str) and _ID.fullmatch(wanted)):
        raise InvalidRequest("A thread id is 1-64 letters, digits, `-` or `_`.", where="thread_id")
    if wanted is not None and body.get("if_exists", "raise") == "raise" and _exists(project, wanted):
        raise Conflict(f"There is a thread {wanted} already.", where="thread_id", remedy="Use another id.")
    return thread_json(create(project, wanted, metadata))


def _refuse_times(body: dict[str, Any]) -> None:
    if body.get("ttl") is not None:
        raise InvalidRequest("A thread stays until it is deleted.", where="ttl", remedy="Leave it out.")


def _exists(project: str, thread_id: str) -> bool:
    try:
        tasks.get_thread(project, thread_id)
    except NotFound:
        return False
    return True


def _wanted(body: dict[str, Any]) -> dict[str, Any]:
    """What a search or a count goes by."""
    status, values = body.get("status"), body.get("values")
    if status is not None:
        read_choice(body, "status", STATUSES, "")
    if values is not None and not isinstance(values, dict):
        raise InvalidRequest("`values` is an object.", where="values")
    return {"status": status, "metadata": {**read_metadata(body), "graph_id": ASSISTANT}, "values": values}


@router.post("/threads/search")
def search(project: Project, body: Body) -> list[dict[str, Any]]:
    """Conversations by status, metadata, values and ids; newest first unless told otherwise."""
    ids = body.get("ids")
    if ids is not None and not (isinstance(ids, list) and all(isinstance(id, str) for id in ids)):
        raise InvalidRequest("`ids` is a list of thread ids.", where="ids")
    if body.get("extract"):
        raise InvalidRequest("extract is not supported.", where="extract", remedy="Use `select`.")
    found = tasks.search_threads(
        project,
        **_wanted(body),
        limit=read_number(body, "limit", 10, 1000),
        offset=read_number(body, "offset", 0, 1_000_000_000),
        ids=ids,
        sort_by=read_choice(body, "sort_by", SORTED, "created_at"),
        descending=read_choice(body, "sort_order", ("asc", "desc"), "desc") == "desc",
    )
    return [selected(thread_json(thread), body.get("select")) for thread in found]


@router.post("/threads/count")
def count(project: Project, body: Body) -> int:
    """How many conversations a search would find."""
    return tasks.count_threads(project, **_wanted(body))


@router.post("/threads/prune")
def prune(project: Project, body: Body) -> dict[str, int]:
    """Delete several threads, or with `keep_latest` all their states but the newest; all or none.

    Raises:
        NotFound, Conflict: One of them is not there, or cannot be deleted now.
    """
    ids, strategy = body.get("thread_ids"), read_choice(body, "strategy", ("delete", "keep_latest"), "delete")
    if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
        raise InvalidRequest("`thread_ids` is a list of thread ids.", where="thread_ids")
    unique = list(dict.fromkeys(ids))
    check, act = (_deletable, tasks.delete_thread) if strategy == "delete" else (conversation, states.forget_older)
    for id in unique:
        check(project, id)
    for id in unique:
        act(project, id)
    return {"pruned_count": len(unique)}


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
    _refuse_times(body)
    metadata = {**thread.metadata, **read_metadata(body), "graph_id": ASSISTANT}
    changed = tasks.update_thread(thread_id, metadata=metadata)
    return Response(status_code=204) if prefer == "return=minimal" else thread_json(changed)


@router.delete("/threads/{thread_id}", status_code=204)
def delete_thread(thread_id: str, project: Project) -> Response:
    """Delete a thread at rest whose task has ended; what the task made stays."""
    tasks.delete_thread(project, _deletable(project, thread_id).id)
    return Response(status_code=204)


def _deletable(project: str, thread_id: str) -> tasks.Thread:
    thread = conversation(project, thread_id)
    if thread.status == "busy":
        raise Conflict("The thread is busy.", where=thread_id, remedy="Cancel its run first.")
    if thread.task and not tasks.find_task(thread.task).ended:  # nobody could answer or cancel it any more
        raise Conflict("The thread's task has not ended.", where=thread.task, remedy="Cancel the task first.")
    return thread


@router.post("/threads/{thread_id}/copy")
def copy_thread(thread_id: str, project: Project) -> dict[str, Any]:
    """A new thread that knows what was said and which files were brought; the task stays with the old one."""
    thread = conversation(project, thread_id)
    values = {name: thread.values[name] for name in COPIED if name in thread.values}
    return thread_json(create(project, None, thread.metadata, values=values))
