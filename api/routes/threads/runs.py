"""`/threads/{id}/runs`: say something or answer, then follow what happens. The graphs run in the worker.

A run is written to the store first and queued under its id second; if the queue cannot be reached just now, the
worker's sweeper finds the row.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse
from sse_starlette import EventSourceResponse

from api.auth import Project
from api.bodies import Body
from api.follow import cursor
from api.routes.threads import following
from api.routes.threads.following import LastEventId, answered, streamed
from api.routes.threads.requests import check_fields, read_input, read_metadata, read_resume
from api.routes.threads.shapes import run_json, selected
from api.routes.threads.threads import conversation, create
from graphs import jobs
from moatelier.errors import Conflict, InvalidRequest, NotFound
from moatelier.ids import digest_json
from store import tasks

router = APIRouter(prefix="/threads/{thread_id}/runs")


def start(project: str, thread_id: str, body: dict[str, Any]) -> tasks.Run:
    """Write a run and queue it (blocking).

    Raises:
        InvalidRequest, NotFound: The input or the command cannot be understood.
        Conflict: The thread is busy, or does not wait for this answer.
    """
    check_fields(body)
    metadata, thread = read_metadata(body), _thread(project, thread_id, body)
    if (body.get("command") is None) == (body.get("input") is None):
        raise InvalidRequest("Send either `input` or `command`.", where="input")
    if thread.status == "busy":
        raise Conflict("The thread is busy.", where=thread_id, remedy="Wait for its run, or cancel it.")
    if body.get("command") is None:
        said = read_input(project, body["input"])
        if thread.status == "interrupted" and any((said.get("files") or {}).values()):
            remedy = "Answer it without files, or send them on another thread."
            raise Conflict("The thread waits for an answer, and files are none.", where=thread_id, remedy=remedy)
        run = tasks.create_run(project, thread=thread_id, input=said, metadata=metadata)
    else:
        run = _resume(thread, body["command"], metadata)
    jobs.submit_or_leave(run)
    return run


def _thread(project: str, thread_id: str, body: dict[str, Any]) -> tasks.Thread:
    try:
        return conversation(project, thread_id)
    except NotFound:
        if body.get("if_not_exists") != "create":
            raise
        return create(project, thread_id)


def _resume(thread: tasks.Thread, command: Any, metadata: dict[str, Any]) -> tasks.Run:
    interrupt, answer = read_resume(thread, command)
    written = {"resume": {interrupt: answer}}
    # The id is that of graphs.jobs.answer: whoever answers an interrupt first is the only one.
    run_id = f"run-{digest_json([thread.id, interrupt])[:12]}"
    run = tasks.create_run(thread.project, id=run_id, thread=thread.id, command=written, metadata=metadata)
    if run.command != written:
        raise Conflict(f"{interrupt} has been answered already.", where=f"command.resume.{interrupt}")
    return run


def _run(project: str, thread_id: str, run_id: str) -> following.Span:
    conversation(project, thread_id)
    return following.span(tasks.shown_run(project, thread_id, run_id))


@router.post("")
def create_run(thread_id: str, project: Project, body: Body) -> JSONResponse:
    """Start a run and return at once."""
    run = start(project, thread_id, body)
    return JSONResponse(run_json(run), headers={"content-location": following.place(run, "")["content-location"]})


@router.post("/stream")
def create_and_stream(thread_id: str, project: Project, body: Body) -> EventSourceResponse:
    """Start a run and follow it."""
    part = following.span(start(project, thread_id, body))
    return streamed(part, part.start)


@router.post("/wait")
def create_and_wait(thread_id: str, project: Project, body: Body) -> StreamingResponse:
    """Start a run and answer when it has ended."""
    return answered(following.span(start(project, thread_id, body)))


@router.get("")
def list_runs(
    thread_id: str,
    project: Project,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    offset: Annotated[int, Query(ge=0, le=1_000_000_000)] = 0,
    status: str | None = None,
    select: Annotated[list[str] | None, Query()] = None,
) -> list[dict[str, Any]]:
    """The thread's runs, newest first."""
    conversation(project, thread_id)
    span = {"limit": 1000, "offset": 0} if status else {"limit": limit, "offset": offset}
    runs = [run_json(run) for run in tasks.list_runs(project, thread_id, **span, hidden=False)]
    if status:
        runs = [run for run in runs if run["status"] == status][offset : offset + limit]
    return [selected(run, select) for run in runs]


@router.get("/{run_id}")
def get_run(thread_id: str, run_id: str, project: Project) -> dict[str, Any]:
    """One run."""
    return run_json(_run(project, thread_id, run_id).run)


@router.get("/{run_id}/join")
def join(thread_id: str, run_id: str, project: Project) -> StreamingResponse:
    """The thread's values when the run has ended."""
    return answered(_run(project, thread_id, run_id))


@router.get("/{run_id}/stream")
def join_stream(
    thread_id: str, run_id: str, project: Project, last_event_id: LastEventId = None
) -> EventSourceResponse:
    """Follow a run from its beginning, or from where a client left off."""
    part = _run(project, thread_id, run_id)
    return streamed(part, cursor(last_event_id, part.start))


@router.delete("/{run_id}", status_code=204)
def delete_run(thread_id: str, run_id: str, project: Project) -> Response:
    """Forget a run that has ended, and what was said in it; what it made stays, and so do its events in the log."""
    conversation(project, thread_id)
    tasks.hide_run(project, thread_id, run_id)
    return Response(status_code=204)


@router.post("/{run_id}/cancel", response_model=None)
def cancel(thread_id: str, run_id: str, project: Project, wait: bool = False, action: str = "interrupt") -> Response:
    """Cancel what the run is doing, or the question it left; with `wait`, answer when the run has ended.

    Raises:
        Conflict: There is nothing left to cancel.
    """
    refuse_rollback(action)
    thread, part = conversation(project, thread_id), _run(project, thread_id, run_id)
    waits = part.run.status == "interrupted" and thread.status == "interrupted"
    if part.run.ended and not waits:
        raise Conflict(f"The run has ended ({part.run.status}).", where=run_id, remedy="There is nothing to cancel.")
    jobs.cancel_run(part.run)
    return answered(part) if wait else Response(status_code=202)


def refuse_rollback(action: str) -> None:
    """Refuse what cannot be taken back. Raises InvalidRequest."""
    if action != "interrupt":
        remedy = "Cancel the run, then delete it."
        raise InvalidRequest("What a run has done is not taken back.", where="action", remedy=remedy)
