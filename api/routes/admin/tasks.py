"""`/tasks`: what was asked for, how far it is, its events, its ledger and its report."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import FileResponse
from sse_starlette import EventSourceResponse, ServerSentEvent

from api.archives import zipped
from api.auth import Project
from api.follow import Look, cursor, event_json, follow, sse
from api.pages import listing
from graphs import jobs
from moatelier.errors import NotFound
from moatelier.settings import settings
from store import events, ledger, tasks

router = APIRouter(prefix="/tasks")
PAGE = 500


def _json(task: tasks.Task) -> dict[str, Any]:
    return {"object": "task", **task.model_dump(mode="json", exclude={"project"}), "report": _folder(task).is_dir()}


def _folder(task: tasks.Task) -> Path:
    return settings().home / "reports" / task.id


def _report(project: str, task_id: str) -> Path:
    task = tasks.get_task(project, task_id)
    folder = _folder(task)
    if not folder.is_dir():
        remedy = "It ended before there was anything to report." if task.ended else "It is written when the task ends."
        raise NotFound("This task has no report.", where=task_id, remedy=remedy)
    return folder


@router.get("")
def list_tasks(
    project: Project, limit: Annotated[int, Query(ge=1, le=1000)] = 50, after: str | None = None
) -> dict[str, Any]:
    """Tasks, newest first."""
    found = tasks.list_tasks(project, limit=limit + 1, after=after)
    return listing([_json(task) for task in found[:limit]], has_more=len(found) > limit)


@router.get("/{task_id}")
def get_task(task_id: str, project: Project) -> dict[str, Any]:
    """One task: its plan, status, result or error."""
    return _json(tasks.get_task(project, task_id))


@router.get("/{task_id}/ledger")
def task_ledger(task_id: str, project: Project) -> dict[str, Any]:
    """Why each trial after the first was made: symptom, evidence, action, and what it brought."""
    lines = ledger.entries(project, tasks.get_task(project, task_id).id)
    return listing(
        [{"id": f"{line.task}/{line.trial}", "effect": line.effect, **line.model_dump(mode="json")} for line in lines],
        has_more=False,
    )


@router.post("/{task_id}/cancel")
def cancel(task_id: str, project: Project) -> dict[str, Any]:
    """Ask a task to end. Raises Conflict when it has ended."""
    jobs.cancel_task(project, task_id)
    return _json(tasks.get_task(project, task_id))


def _look(task: tasks.Task, after: int) -> Look:
    ended = tasks.find_task(task.id).ended
    found = events.read(task.project, task=task.id, after=after, limit=PAGE)
    return Look(found, ended=ended and len(found) < PAGE)


async def _stream(task: tasks.Task, after: int) -> AsyncIterator[ServerSentEvent]:
    async for event in follow(partial(_look, task), after):
        yield sse(event.kind, event_json(event), id=event.id)
    yield sse("end", {"task": task.id})


@router.get("/{task_id}/events", response_model=None)
def list_events(
    task_id: str,
    project: Project,
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = PAGE,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str | None, Header(alias="last-event-id")] = None,
) -> dict[str, Any] | EventSourceResponse:
    """The task's events after an id: a page of JSON, or for `Accept: text/event-stream` all of them until it ends."""
    task = tasks.get_task(project, task_id)
    if "text/event-stream" in accept:
        return EventSourceResponse(_stream(task, cursor(last_event_id, after)), sep="\n")
    found = events.read(project, task=task_id, after=after, limit=limit + 1)
    return listing([event_json(event) for event in found[:limit]], has_more=len(found) > limit)


@router.get("/{task_id}/report")
def report(task_id: str, project: Project) -> FileResponse:
    """The whole report folder as a zip archive."""
    folder = _report(project, task_id)
    return zipped({path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}, f"{task_id}-report")


@router.get("/{task_id}/report/{name:path}")
def report_file(task_id: str, name: str, project: Project) -> Response:
    """One file of the report, such as `index.html` or `report.json`."""
    folder = _report(project, task_id).resolve()
    path = (folder / name).resolve()
    if not path.is_file() or not path.is_relative_to(folder):
        names = sorted(found.relative_to(folder).as_posix() for found in folder.rglob("*") if found.is_file())
        raise NotFound("The report has no such file.", where=name, remedy=f"It has {', '.join(names)}.")
    return FileResponse(path)
