"""`/threads/{id}/state`, `/history` and `/stream`: how a conversation stands, how it stood, and what happens on it."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sse_starlette import EventSourceResponse, ServerSentEvent

from api.auth import Project
from api.bodies import Body
from api.follow import Look, cursor, event_json, follow, sse
from api.routes.threads.following import PAGE, LastEventId
from api.routes.threads.requests import read_metadata, read_number
from api.routes.threads.shapes import past_json, selected, state_json
from api.routes.threads.threads import conversation
from moatelier.errors import InvalidRequest, NotFound
from store import events, states, tasks

router = APIRouter(prefix="/threads/{thread_id}")
Select = Annotated[list[str] | None, Query()]


@router.get("/state")
def get_state(thread_id: str, project: Project, select: Select = None) -> dict[str, Any]:
    """Where the thread stands: its values and what it waits for."""
    thread = conversation(project, thread_id)
    return selected(state_json(thread, states.history(project, thread_id, 1)), select)


@router.get("/state/{checkpoint_id}")
def get_past_state(thread_id: str, checkpoint_id: str, project: Project, select: Select = None) -> dict[str, Any]:
    """How it stood after a run."""
    thread = conversation(project, thread_id)
    return selected(past_json(thread, states.get(project, thread_id, checkpoint_id)), select)


@router.post("/state/checkpoint")
def get_state_at(thread_id: str, project: Project, body: Body) -> dict[str, Any]:
    """The same, by a checkpoint as a state shows it."""
    thread, name = conversation(project, thread_id), _named(body.get("checkpoint"), "checkpoint")
    state = past_json(thread, states.get(project, thread_id, name)) if name else _now(project, thread)
    return selected(state, body.get("select"))


def _now(project: str, thread: tasks.Thread) -> dict[str, Any]:
    return state_json(thread, states.history(project, thread.id, 1))


def _named(value: Any, where: str) -> str | None:
    """The state's name in a checkpoint, which may be its name alone."""
    name = value.get("checkpoint_id") if isinstance(value, dict) else value
    if name is not None and not isinstance(name, str):
        raise InvalidRequest("A checkpoint is named by its `checkpoint_id`.", where=where)
    return name


@router.post("/state")
def update_state(thread_id: str, project: Project) -> dict[str, Any]:
    """Refused: a conversation changes by what is said on it, and by nothing else.

    Raises:
        NotFound: There is no such thread.
        InvalidRequest: In every other case.
    """
    conversation(project, thread_id)
    raise InvalidRequest(
        "A conversation's state cannot be set.",
        where="values",
        remedy="Say or answer something: POST /threads/{id}/runs.",
    )


@router.post("/history")
def post_history(thread_id: str, project: Project, body: Body) -> list[dict[str, Any]]:
    """The states that its runs led to, newest first."""
    thread, limit = conversation(project, thread_id), read_number(body, "limit", 10, 1000)
    before, wanted = _named(body.get("before"), "before"), read_metadata(body)
    if body.get("checkpoint"):
        raise InvalidRequest("History is listed by `before`.", where="checkpoint", remedy="Send `before`.")
    found = states.history(project, thread_id, 1000 if wanted else limit, before)
    kept = [state for state in found if wanted.items() <= state.metadata.items()][:limit]
    return [selected(past_json(thread, state), body.get("select")) for state in kept]


@router.get("/history")
def get_history(
    thread_id: str, project: Project, limit: Annotated[int, Query(ge=1, le=1000)] = 10, before: str | None = None
) -> list[dict[str, Any]]:
    """The same, for who asks without a body."""
    thread = conversation(project, thread_id)
    return [past_json(thread, state) for state in states.history(project, thread_id, limit, before)]


@router.get("/stream")
def join_thread(
    thread_id: str, project: Project, stream_mode: Select = None, last_event_id: LastEventId = None
) -> EventSourceResponse:
    """Everything that happens on a thread from now on, or from where a client left off, until it is deleted."""
    conversation(project, thread_id)
    if set(stream_mode or ()) - {"run_modes"}:
        remedy = "Leave it out, or send run_modes."
        raise InvalidRequest("A thread is streamed run by run.", where="stream_mode", remedy=remedy)
    newest = events.last_id(project, stream=thread_id)
    return EventSourceResponse(
        _stream(project, thread_id, cursor(last_event_id, 0) if last_event_id else newest), sep="\n"
    )


async def _stream(project: str, thread_id: str, after: int) -> AsyncIterator[ServerSentEvent]:
    def look(seen: int) -> Look:
        try:
            tasks.get_thread(project, thread_id)
        except NotFound:
            return Look([], ended=True)
        return Look(events.read(project, stream=thread_id, after=seen, limit=PAGE), ended=False)

    yield sse("metadata", {"thread_id": thread_id}, id=after)
    async for event in follow(look, after):
        yield sse("custom", event_json(event), id=event.id)


@router.post("/commands")
@router.post("/stream/events")
def refuse_protocol(thread_id: str, project: Project) -> dict[str, Any]:
    """Refused: the younger protocol of commands and channels.

    Raises:
        InvalidRequest: Always.
    """
    conversation(project, thread_id)
    remedy = "Use `runs.stream`, `runs.join_stream` or `threads.join_stream`."
    raise InvalidRequest("Threads are not streamed by commands and channels here.", where=thread_id, remedy=remedy)
