"""`/runs`: a run without a thread of one's own, several at once, and the cancelling of many.

Each gets a thread, which `Content-Location` names; it is forgotten some minutes after the run, unless it waits for an
answer or its task goes on, or `on_completion` is `keep`.
"""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, StreamingResponse
from sse_starlette import EventSourceResponse

from api.auth import Project
from api.bodies import Bodies, Body
from api.routes.threads import following
from api.routes.threads.requests import check_fields, read_choice, read_input, read_metadata
from api.routes.threads.runs import refuse_rollback, start
from api.routes.threads.shapes import run_json
from api.routes.threads.threads import conversation, create
from graphs import jobs
from moatelier.errors import Conflict, InvalidRequest
from store import tasks

router = APIRouter(prefix="/runs")
MOST = 100
"""Runs that one request may start or name."""


def begin(project: str, body: dict[str, Any]) -> tasks.Run:
    """Make a thread and start a run on it (blocking). What the run says is read before the thread is made.

    Raises:
        InvalidRequest, NotFound: The input cannot be understood.
    """
    check_fields(body)
    metadata = read_metadata(body)
    keep = read_choice(body, "on_completion", ("delete", "keep"), "delete") == "keep"
    if body.get("command") is not None or body.get("input") is None:
        remedy = "Send `input`; a question is answered on its thread."
        raise InvalidRequest("A run without a thread begins with `input`.", where="input", remedy=remedy)
    read_input(project, body["input"])
    thread = create(project, None, metadata, stateless=not keep)
    return start(project, thread.id, body)


@router.post("")
def create_run(project: Project, body: Body) -> JSONResponse:
    """Start a run and return at once."""
    run = begin(project, body)
    return JSONResponse(run_json(run), headers={"content-location": following.place(run, "")["content-location"]})


@router.post("/stream")
def create_and_stream(project: Project, body: Body) -> EventSourceResponse:
    """Start a run and follow it."""
    part = following.span(begin(project, body))
    return following.streamed(part, part.start)


@router.post("/wait")
def create_and_wait(project: Project, body: Body) -> StreamingResponse:
    """Start a run and answer when it has ended."""
    return following.answered(following.span(begin(project, body)))


@router.post("/batch")
def create_batch(project: Project, bodies: Bodies) -> list[dict[str, Any]]:
    """Start several runs, each on the thread it names or on one of its own, in order until one is refused."""
    if len(bodies) > MOST:
        raise InvalidRequest(f"More than {MOST} runs at once.", remedy="Send them in several requests.")
    runs = []
    for body in bodies:
        thread = body.get("thread_id")
        runs.append(start(project, str(thread), body) if thread is not None else begin(project, body))
    return [run_json(run) for run in runs]


@router.post("/cancel", status_code=204)
def cancel_many(project: Project, body: Body, action: str = "interrupt") -> Response:
    """Cancel the runs that are named, or those of a status; those that have nothing to cancel are left alone.

    Raises:
        InvalidRequest: It names neither runs nor a status.
        NotFound: There is no such thread.
    """
    refuse_rollback(action)
    thread, ids, status = body.get("thread_id"), body.get("run_ids"), body.get("status")
    if (ids is None) == (status is None):
        raise InvalidRequest("Send either `run_ids` or `status`.", where="run_ids")
    if ids is not None and not (isinstance(ids, list) and all(isinstance(id, str) for id in ids) and len(ids) <= MOST):
        raise InvalidRequest(f"`run_ids` is a list of at most {MOST} ids.", where="run_ids")
    if thread is not None:
        conversation(project, str(thread))
    status = read_choice(body, "status", ("pending", "running", "all"), "all")
    for run in tasks.open_runs(project, thread):
        if (ids is None or run.id in ids) and status in ("all", run.status):
            _cancel(run)
    return Response(status_code=204)


def _cancel(run: tasks.Run) -> None:
    try:
        jobs.cancel_run(run)
    except Conflict:  # it has started no task, or its task has just ended
        return
