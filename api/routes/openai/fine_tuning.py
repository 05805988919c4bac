"""`/v1/fine_tuning/jobs`: tasks as OpenAI's clients know them. What a conversation has started is here too."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from api import metadata, tuning_shapes
from api.auth import Project
from api.bodies import STRICT
from api.pages import listing, page
from api.tuning_requests import JobRequest, in_words, order_of
from api.tuning_shapes import checkpoint_json, event_json, job_json
from graphs import jobs, ordering
from moatelier.contracts import Event
from moatelier.errors import Conflict, InvalidRequest, NotFound
from store import adapters, datasets, events, orders, tasks

router = APIRouter(prefix="/v1/fine_tuning/jobs", dependencies=[STRICT])
PAGE = 100
MOST_TRIALS = 100
"""More than a task's budget allows."""
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.post("")
def create(project: Project, body: JobRequest) -> dict[str, Any]:
    """Start a task whose plan is made of the request. Raises NotFound and InvalidRequest."""
    order = order_of(body)
    for field in ("training_file", "validation_file"):
        _need_file(project, field, getattr(body, field))
    task = ordering.start(
        project,
        order,
        request=body.model_dump(mode="json", exclude_none=True),
        words=in_words(body),
        train_file=body.training_file,
        test_file=body.validation_file,
    )
    return _json(task)


def _need_file(project: str, field: str, file_id: str | None) -> None:
    if file_id is None:
        return
    try:
        file = datasets.get_file(project, file_id)
    except NotFound as error:
        raise InvalidRequest(f"There is no file {file_id}.", where=field, remedy=error.remedy) from error
    if file.purpose != "fine-tune":
        remedy = "Upload it with the purpose `fine-tune`."
        raise InvalidRequest(f"The purpose of {file_id} is {file.purpose}.", where=field, remedy=remedy)


def _json(task: tasks.Task) -> dict[str, Any]:
    return job_json(task, orders.get(task.project, task.id))


def _job(project: str, job_id: str) -> tasks.Task:
    task = tasks.get_task(project, job_id)
    if tasks.find_thread(task.thread).graph != "lifecycle":  # a recipe's evaluation, say
        raise NotFound("There is no such fine-tuning job.", where=job_id)
    return task


@router.get("")
def list_jobs(request: Request, project: Project, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """The project's jobs, newest first, of which some may be chosen by their metadata."""
    asked = metadata.wanted(request)
    found: list[dict[str, Any]] = []
    while len(found) <= limit:
        some = tasks.list_tasks(project, limit=PAGE, after=after, graph="lifecycle")
        ordered = orders.of(project, [task.id for task in some])
        told = (job_json(task, ordered.get(task.id)) for task in some)
        found += [job for job in told if metadata.fits(job.get("metadata"), asked)]
        if len(some) < PAGE:
            break
        after = some[-1].id
    return listing(found[:limit], has_more=len(found) > limit)


@router.get("/{job_id}")
def get_job(job_id: str, project: Project) -> dict[str, Any]:
    """One job."""
    return _json(_job(project, job_id))


@router.post("/{job_id}/cancel")
def cancel(job_id: str, project: Project) -> dict[str, Any]:
    """End a job. Raises Conflict, status 400, when it has ended or is being cancelled."""
    task = _job(project, job_id)
    if task.cancel_requested and not task.ended:
        raise Conflict("The job is being cancelled already.", where=job_id, remedy="Wait until it has ended.")
    jobs.cancel_task(project, job_id)
    return _json(_job(project, job_id))


@router.post("/{job_id}/pause")
def pause(job_id: str, project: Project) -> dict[str, Any]:
    """Hold a job: its training saves and stops, and nothing further begins. Raises Conflict when it has ended."""
    _job(project, job_id)
    return _json(tasks.request_pause(project, job_id, True))


@router.post("/{job_id}/resume")
def resume(job_id: str, project: Project) -> dict[str, Any]:
    """Go on with a paused job. Raises Conflict when it is not paused."""
    if not _job(project, job_id).pause_requested:
        raise Conflict("The job is not paused.", where=job_id, remedy="There is nothing to resume.")
    return _json(tasks.request_pause(project, job_id, False))


@router.get("/{job_id}/events")
def list_events(job_id: str, project: Project, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """What has happened to a job, newest first."""
    task = _job(project, job_id)
    before = None if after is None else _number(after)
    found = events.newest(project, task=task.id, kinds=tuning_shapes.SHOWN, before=before, limit=limit + 1)
    return listing([event_json(event) for event in found[:limit]], has_more=len(found) > limit)


def _number(event_id: str) -> int:
    number = event_id.removeprefix("ftevent-")
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        raise InvalidRequest(f"`after` names no event: {event_id}.", where="after")
    return int(number)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(job_id: str, project: Project, after: str | None = None, limit: Limit = 10) -> dict[str, Any]:
    """The job's trials whose adapters can be asked, newest first; each has been sealed at its best step."""
    task = _job(project, job_id)
    made = ((event, _model(project, event)) for event in _trials(task))
    rows = [checkpoint_json(task, event, model) for event, model in made if model]
    return page(rows, after=after, limit=limit)


def _trials(task: tasks.Task) -> list[Event]:
    return events.newest(task.project, task=task.id, kinds=["evaluated"], limit=MOST_TRIALS)


def _model(project: str, event: Event) -> str | None:
    try:
        return adapters.get(project, event.body["bundle"]).model_id
    except NotFound:
        return None
