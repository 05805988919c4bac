"""The face of the durable job layer: submit a run, run a job and wait for it, cancel.

Everything here is idempotent by id. The API and the graphs' nodes call it; the worker (worker.py) carries it out.
Separate queues keep a conversation that waits for its task, a task that waits for its job, and the job itself from
waiting for one another's places.
"""

import logging
import time
from functools import cache
from typing import Any

from dbos import DBOSClient, EnqueueOptions, WorkflowHandle

from moatelier.errors import Cancelled, Conflict, MoatelierError
from moatelier.faults import fault_point
from moatelier.ids import digest_json, job_key
from moatelier.settings import settings
from store import events, projects, tasks

APPLICATION_VERSION = "1"
"""Pinned, so that work that was queued before an upgrade is carried on after it."""
QUEUES = {"conversation": 32, "lifecycle": 32, "entry": 4, "derivation": 4, "grading": 4, "mixture": 8, "jobs": 1}
"""Queue -> how many of its workflows a worker runs at once; one training at a time."""


POLL_S = 0.2
log = logging.getLogger("moatelier.jobs")
_QUEUED = ("ENQUEUED", "DELAYED")
_OPEN = (*_QUEUED, "PENDING")


def database_url() -> str:
    """The job layer's own database: a file of its own on SQLite, the store's server on Postgres."""
    url = settings().database_url
    return url if url and not url.startswith("sqlite") else f"sqlite:///{settings().home / 'jobs.db'}"


@cache
def client() -> DBOSClient:
    """This process's connection to the job layer."""
    return DBOSClient(system_database_url=database_url(), lazy=True)


def _options(queue: str, workflow: str, key: str) -> EnqueueOptions:
    return {"queue_name": queue, "workflow_name": workflow, "workflow_id": key, "app_version": APPLICATION_VERSION}


def submit_run(run_id: str) -> None:
    """Queue a run whose row is already written; a second call changes nothing."""
    run = tasks.find_run(run_id)
    thread = tasks.find_thread(run.thread)
    client().enqueue(_options(thread.graph, "advance", run.id), run.id)


def submit_or_leave(run: tasks.Run) -> None:
    """Queue a run; when the queue cannot be reached just now, the worker's sweeper finds its row."""
    try:
        submit_run(run.id)
    except Exception:
        log.exception("run %s could not be queued; the sweeper will do it", run.id)


def enter(project: str, adapter: str) -> tasks.Run:
    """Have an adapter enter the router again, on a thread of its own."""
    thread = tasks.create_thread(project, graph="entry")
    run = tasks.create_run(project, thread=thread.id, input={"adapter": adapter})
    submit_or_leave(run)
    return run


def run_job(
    kind: str, spec: dict[str, Any], *, project: str, stream: str, task: str | None, thread: str, attempt: int = 0
) -> tuple[str, dict[str, Any]]:
    """Run a job to its end, or find it done or running, and return its key and result.

    Args:
        kind: One of `processes.MODULES`.
        spec: The JSON that becomes the job's spec.json.
        project: Whose it is.
        stream: The conversation that sees its events.
        task: The task it belongs to, if any; a cancelled task stops its job.
        thread: The thread that asks.
        attempt: Tells apart repeated work with equal inputs.

    Raises:
        QuotaExceeded: It is a training, and the project has had its time.
        Cancelled: The task was cancelled; a job that still waits for its turn is then never begun.
        MoatelierError: What the job could not do, as its process said it.
    """
    key = job_key(thread, kind, attempt, spec)
    if kind == "train" and events.find(project, key, "job") is None:  # one that has begun goes on
        projects.need_training_time(project)
    context = {"project": project, "stream": stream, "task": task}
    lives = 0
    while "paused" in (outcome := _carried(key if not lives else f"{key}-{lives}", key, kind, spec, context)):
        lives += 1
        held(task)
    if "error" in outcome:
        raise MoatelierError.from_dict(outcome["error"])
    return key, outcome["result"]


def _carried(name: str, key: str, kind: str, spec: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
    """How a job ended, or that it was paused: it goes on in its folder under another name of the same workflow."""
    task = context["task"]
    enqueued: WorkflowHandle[dict[str, Any]] = client().enqueue(
        _options("jobs", "run_job", name), key, kind, spec, context
    )
    fault_point(f"{kind}.enqueued")
    while (stands := enqueued.get_status().status) in _OPEN:
        if stands in _QUEUED and task and tasks.find_task(task).cancel_requested:
            client().cancel_workflow(name)  # one that has just begun sees the wish itself
        time.sleep(POLL_S)
    if stands == "CANCELLED":
        raise Cancelled("The task was cancelled.", where=key)
    return enqueued.get_result()


def held(task: str | None) -> bool:
    """Wait while a task is paused; whether it has been cancelled."""
    while task and (found := tasks.find_task(task)).pause_requested and not found.cancel_requested:
        time.sleep(POLL_S)
    return bool(task) and found.cancel_requested


def answer(thread: tasks.Thread, value: Any) -> None:
    """Resume a thread's pending interrupt with a value; nothing happens when none is pending."""
    if thread.status != "interrupted" or not thread.interrupts:
        return
    interrupt = thread.interrupts[0]["id"]
    run_id = f"run-{digest_json([thread.id, interrupt])[:12]}"
    tasks.create_run(thread.project, id=run_id, thread=thread.id, command={"resume": {interrupt: value}})
    submit_run(run_id)


def cancel_task(project: str, task_id: str) -> None:
    """Ask a task to end: its job is stopped, a question it waits with is withdrawn.

    Raises:
        NotFound, Conflict: There is no such task, or it has ended.
    """
    tasks.request_cancel(project, task_id)
    task = tasks.find_task(task_id)
    for thread_id in (task.thread, task.conversation):
        answer(tasks.find_thread(thread_id), {"cancel": True})


def cancel_run(run: tasks.Run) -> None:
    """Cancel what a conversation's run is doing: the task it follows.

    Raises:
        Conflict: It has started no task yet, or the task has ended.
    """
    thread = tasks.find_thread(run.thread)
    if thread.task is None:
        raise Conflict("The run has started no task yet.", where=run.id, remedy="Try again in a moment.")
    cancel_task(thread.project, thread.task)
