"""The worker process: drives graphs and jobs. `python -m graphs.worker`, started by the supervisor.

Two durable workflows, each a single step, so that a graph's own order never has to be replayed by the job layer:

    advance(run)                    reads the thread's state and goes on from there
    run_job(key, kind, spec, ...)   carries one job's process to its end

The process may be killed at any moment: after a restart under the same executor id both are found pending and start
again; `advance` sees what is done from the checkpoint, `run_job` from the job's folder.
"""

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from typing import Any

from dbos import DBOS, DBOSConfig
from filelock import FileLock
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from graphs import conversation, derivation, entry, grading, jobs, lifecycle, loop, metrics, mixture, processes
from graphs.checkpoint import saver
from moatelier import logs
from moatelier.contracts import Event
from moatelier.errors import MoatelierError
from moatelier.settings import settings
from store import artifacts, crons, datasets, events, tasks, uploads

GRAPHS: dict[str, Any] = {
    "conversation": conversation.build,
    "lifecycle": lifecycle.build,
    "entry": entry.build,
    "derivation": derivation.build,
    "grading": grading.build,
    "mixture": mixture.build,
}
SWEEP_S = 3.0
SHUTDOWN_S = 6.0
STATELESS_S = 600.0
"""So long after its run a stateless thread can still be read."""
LOOP = loop.Loop()
log = logging.getLogger("moatelier.worker")


def advance(run_id: str) -> str:
    """Take a run as far as it goes now: to an interrupt, to its end, or to an error. Returns the run's status."""
    run = tasks.find_run(run_id)
    if run.status not in ("pending", "running"):
        return run.status
    tasks.update_run(run.id, status="running")
    thread = tasks.find_thread(run.thread)
    graph: CompiledStateGraph[Any, Any, Any, Any] = GRAPHS[thread.graph]()
    config: Any = {"configurable": {"thread_id": thread.id}, "recursion_limit": 200}
    try:
        step = _next_input(graph, config, run, thread)
        if step is not None:
            graph.invoke(None if step == "go on" else step, config, durability="sync")
    except Exception as error:
        return _fail(run, thread, error)
    return _settle(graph, config, run, thread)


def _next_input(graph: Any, config: Any, run: tasks.Run, thread: tasks.Thread) -> Any:
    """What to feed the graph: fresh input, the answer to a pending interrupt, "go on", or None when nothing is left."""
    state = graph.get_state(config)
    first = len(tasks.list_runs(run.project, thread.id, limit=2)) == 1
    if first and state.values and state.values.get("run") != run.id:
        saver().delete_thread(thread.id)  # of a deleted thread that bore the same id: its words must not come back
        state = graph.get_state(config)
    pending = {interrupt.id for interrupt in state.interrupts}
    fresh = run.input is not None and run.command is None and state.values.get("run") != run.id
    if fresh and pending:
        # A message to a thread that waits is the answer. To which question is written down before it is given: after
        # a crash it must neither answer the next one nor start the thread anew.
        run = tasks.update_run(run.id, command={"resume": {next(iter(pending)): _last_text(run.input or {})}})
    resume = dict((run.command or {}).get("resume") or {})
    answers = {key: value for key, value in resume.items() if key in pending}
    if answers:
        return Command(resume=answers)
    if fresh and not resume:
        return GRAPHS_INPUT[thread.graph](run, thread)
    return "go on" if state.next and not pending else None


def _last_text(data: dict[str, Any]) -> str:
    messages = data.get("messages") or [{}]
    return str(messages[-1].get("content", ""))


GRAPHS_INPUT: dict[str, Any] = {
    "conversation": conversation.first_input,
    "lifecycle": lifecycle.first_input,
    "entry": entry.first_input,
    "derivation": derivation.first_input,
    "grading": grading.first_input,
    "mixture": mixture.first_input,
}


def _settle(graph: Any, config: Any, run: tasks.Run, thread: tasks.Thread) -> str:
    """Write down where the thread stands: readers of the store need no graph."""
    state = graph.get_state(config)
    interrupts = [{"id": interrupt.id, "value": interrupt.value} for interrupt in state.interrupts]
    status = "interrupted" if interrupts else "success"
    stands = {"status": "interrupted" if interrupts else "idle", "values": dict(state.values), "interrupts": interrupts}
    _end(run, thread, status, stands)
    return status


def _fail(run: tasks.Run, thread: tasks.Thread, error: Exception) -> str:
    log.exception("run %s of thread %s failed", run.id, thread.id)
    known = error if isinstance(error, MoatelierError) else MoatelierError(f"{type(error).__name__}: {error}")
    if thread.graph != "conversation" and thread.task:
        _fail_task(tasks.find_task(thread.task), known)
    _end(run, thread, "error", {"status": "error"}, known.to_dict())
    return "error"


def _fail_task(task: tasks.Task, error: MoatelierError) -> None:
    """End a task that could not end itself; its readers are told first, as when it closes."""
    if task.ended:
        return
    for kind, body in (("error", error.to_dict()), ("result", {"task": task.id, "status": "failed"})):
        told = Event(
            project=task.project, stream=task.conversation, task=task.id, job=f"{task.id}/failed", kind=kind, body=body
        )
        events.append([told])
    tasks.update_task(task.id, status="failed", error=error.to_dict())


def _end(
    run: tasks.Run, thread: tasks.Thread, status: str, stands: dict[str, Any], error: dict[str, Any] | None = None
) -> None:
    """The run's last event, then its end and the thread's standing in one transaction."""
    if thread.graph == "conversation":
        body = {"run": run.id, "status": status} | ({"error": error} if error else {})
        task = tasks.find_thread(thread.id).task  # the run may have started it
        last = Event(project=run.project, stream=thread.id, task=task, job=run.id, kind="run", step=1, body=body)
        events.append([last])
    metrics.RUNS.labels(thread.graph, status).inc()
    newest = events.last_id(run.project, stream=thread.id)
    tasks.end_run(run.id, status=status, error=error, last_event=newest, thread=stands)


# What `advance` lets out is the store's failing (a full disk, say): to give up would leave the thread busy for ever.
@DBOS.step(name="advance_step", retries_allowed=True, max_attempts=10_000, interval_seconds=SWEEP_S, backoff_rate=1.0)
def _advance_step(run_id: str) -> str:
    return advance(run_id)


@DBOS.workflow(name="advance", max_recovery_attempts=None)
def _advance_workflow(run_id: str) -> str:
    return _advance_step(run_id)


@DBOS.step(name="run_job_step", retries_allowed=True, max_attempts=100, interval_seconds=SWEEP_S, backoff_rate=1.0)
def _job_step(key: str, kind: str, spec: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
    return processes.run(key, kind, spec, context)


@DBOS.workflow(name="run_job", max_recovery_attempts=None)
def _job_workflow(key: str, kind: str, spec: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
    return _job_step(key, kind, spec, context)


def launch(executor: str = "worker-1") -> None:
    """Connect this process to the job layer and start taking work."""
    config: DBOSConfig = {
        "name": "moatelier",
        "system_database_url": jobs.database_url(),
        "application_version": jobs.APPLICATION_VERSION,
        "executor_id": executor,
        "log_level": "WARNING",
        "max_executor_threads": 2 * sum(jobs.QUEUES.values()),
        "notification_listener_polling_interval_sec": 0.2,
    }
    DBOS(config=config)
    DBOS.launch()
    for name, places in jobs.QUEUES.items():
        DBOS.register_queue(name, worker_concurrency=places, polling_interval_sec=0.1)


def sweep() -> None:
    """Queue runs whose row was written but whose workflow was not, because someone died in between.

    And start what is due: crons, and the forgetting of stateless threads.
    """
    for cron in crons.due():
        _fire(cron)
    tasks.forget_stateless(STATELESS_S)
    for run in tasks.unstarted_runs(older_than_s=2.0):
        jobs.submit_run(run.id)
    uploads.remove_expired()
    datasets.remove_expired()
    LOOP.turn()


def _fire(cron: str) -> None:
    try:
        if run := crons.fire(cron):
            jobs.submit_or_leave(run)
    except MoatelierError:
        log.exception("cron %s could not be fired; it stays due", cron)


def _sweep_forever() -> None:
    beat = settings().home / "worker.heartbeat"
    with suppress(OSError):  # another one may be gone by itself meanwhile
        artifacts.remove_leftovers()
    while True:
        beat.touch()
        try:
            metrics.write()
            sweep()
        except Exception:
            metrics.SWEEPS_FAILED.inc()
            log.exception("the sweeper failed; it tries again in %s s", SWEEP_S)
        time.sleep(SWEEP_S)


def _leave(*_: object) -> None:
    """End the jobs' processes and go at once: what was running is pending and goes on after a restart."""
    processes.stop_all(SHUTDOWN_S)
    os._exit(0)


def _follow_supervisor(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    _leave()


def main() -> None:
    """Run until SIGTERM or until the supervisor is gone."""
    logs.configure("worker")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    if pipe := os.environ.pop("MOATELIER_SUPERVISOR_PIPE", ""):
        threading.Thread(target=_follow_supervisor, args=(int(pipe),), daemon=True).start()
    # A worker whose supervisor was killed may still be leaving; two under one executor id would do work twice.
    lock = FileLock(settings().home / "worker.lock")
    lock.acquire()
    launch()
    threading.Thread(target=_sweep_forever, daemon=True).start()
    log.info("the worker takes work from %s", settings().home)
    stop.wait()
    _leave()


if __name__ == "__main__":
    main()
