"""A job's process is started, followed, restarted, stopped; its events reach the log once."""

import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from graphs import metrics, processes
from moatelier.contracts import Event, now
from store import db, events, projects, tasks
from store.tables import ProjectRow

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setitem(processes.MODULES, "train", "tests.graphs.fake_job")
    tasks.create_task(
        "default", id="task-1", thread="t", conversation="c", request="r", train_file="file-1", test_file=None
    )
    context = {"project": "default", "stream": "c", "task": "task-1"}

    def carry(**spec: Any) -> dict[str, Any]:
        return processes.run("train-1", "train", spec, context)

    return carry


def _seen() -> list[tuple[str, int]]:
    return [(event.kind, event.step) for event in events.read("default", task="task-1")]


def test_a_job_runs_and_its_events_are_logged_in_order(run: Run) -> None:
    assert run(steps=3) == {"result": {"counted": 3}}
    assert _seen() == [("job", 0), ("progress", 0), ("progress", 1), ("progress", 2), ("job", 1)]


def test_a_job_of_no_task_runs_to_its_end(run: Run) -> None:
    """What a person asks for outside a task, such as an adapter's entering the router."""
    context = {"project": "default", "stream": "thread-1", "task": None}
    assert processes.run("route-1", "train", {"steps": 1}, context) == {"result": {"counted": 1}}
    told = events.read("default", stream="thread-1")
    assert [(event.kind, event.task) for event in told] == [("job", None), ("progress", None), ("job", None)]


def test_a_training_whose_turn_comes_too_late_is_not_begun(run: Run) -> None:
    """Several that are ordered at once all find time left."""
    with db.session() as opened:
        projects.ensure(opened, "default")
        opened.get_one(ProjectRow, "default").training_seconds = 60
    told = {"project": "default", "stream": "c", "task": None, "job": "train-0", "kind": "job"}
    for step, ago in ((0, 100), (1, 10)):
        body = {"job": "train", "status": "started" if step == 0 else "done"}
        events.append([Event(**told, step=step, body=body, at=now() - timedelta(seconds=ago))])
    assert run(steps=2)["error"]["code"] == "insufficient_quota"
    assert _seen() == []


def test_a_finished_job_is_not_run_again(run: Run, home: Path) -> None:
    run(steps=2)
    (home / "jobs" / "train-1" / "log.txt").unlink()
    assert run(steps=2) == {"result": {"counted": 2}}
    assert not (home / "jobs" / "train-1" / "log.txt").exists()


def test_a_killed_process_is_started_again_and_repeats_no_event(run: Run) -> None:
    assert run(steps=4, die_at=2) == {"result": {"counted": 4}}
    assert _seen() == [("job", 0), *(("progress", n) for n in range(4)), ("job", 1)]


def test_a_process_that_cannot_start_fails_with_what_it_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MODULES", {"train": "tests.graphs.no_such_job"})
    outcome = run(steps=1)
    assert outcome["error"]["code"] == "job_failed"
    assert "no_such_job" in outcome["error"]["what"]


def test_a_process_that_always_dies_at_the_same_place_fails(run: Run) -> None:
    outcome = run(steps=2, die_at=0, always=True)
    assert outcome["error"]["code"] == "job_failed" and "-9" in outcome["error"]["what"]


def test_a_job_goes_on_long_after_its_last_heartbeat(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "POLL_S", 0.01)  # a look comes before the new process can beat
    beat = home / "jobs" / "train-1" / "heartbeat"
    beat.parent.mkdir(parents=True)
    beat.touch()
    os.utime(beat, (time.time() - 86_400, time.time() - 86_400))  # the service was off for a day
    assert run(steps=3, pause_s=0.3) == {"result": {"counted": 3}}


def test_an_error_keeps_its_code_place_and_remedy(run: Run) -> None:
    assert run(fail=True)["error"] == {
        "code": "data_error",
        "what": "The row is bad.",
        "where": "row 7",
        "remedy": "Mend it.",
    }


def test_cancelling_the_task_stops_the_process_and_leaves_nothing(run: Run) -> None:
    def cancel() -> None:
        time.sleep(1.5)
        tasks.request_cancel("default", "task-1")

    threading.Thread(target=cancel).start()
    assert run(steps=1000, pause_s=0.1)["error"]["code"] == "cancelled"
    assert not [p for p in psutil.Process().children(recursive=True) if "fake_job" in " ".join(p.cmdline())]


def test_a_cancelled_job_may_leave_what_it_has_so_far(run: Run) -> None:
    def cancel() -> None:
        while ("progress", 2) not in _seen():
            time.sleep(0.05)
        tasks.request_cancel("default", "task-1")

    threading.Thread(target=cancel).start()
    result = run(steps=1000, pause_s=0.05, leaves=True)["result"]
    assert result["stopped"] == "cancelled" and 2 < result["counted"] < 1000


def test_a_job_that_is_stopped_with_its_worker_leaves_nothing_and_goes_on(run: Run, home: Path) -> None:
    def shut_down() -> None:
        while ("progress", 2) not in _seen():
            time.sleep(0.05)
        processes._running["train-1"].stop()

    threading.Thread(target=shut_down).start()
    assert run(steps=20, pause_s=0.05, leaves=True) == {"result": {"counted": 20}}


def test_a_clock_that_jumps_is_no_silence_and_silence_is_one_by_any_clock(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = processes.JobProcess("train-1", "train", {})
    job.folder.mkdir(parents=True)
    beat = job.folder / "heartbeat"
    beat.touch()
    job.beat = (0.0, time.monotonic())
    honest = time.time
    monkeypatch.setattr(time, "time", lambda: honest() + 86_400)
    assert not job.hangs()
    os.utime(beat, (honest() + 86_400, honest() + 86_400))  # and now the process beats by the new clock
    assert not job.hangs()
    steady = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: steady() + processes.SILENCE_S + 1)
    assert job.hangs()


def test_a_half_written_line_of_a_killed_process_is_not_glued_to_the_next(run: Run, home: Path) -> None:
    folder = home / "jobs" / "train-1"
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text('{"kind": "progress", "step": 0, "body": {}}\n{"kind": "prog')
    run(steps=2)
    assert _seen() == [("job", 0), ("progress", 0), ("progress", 1), ("job", 1)]


def test_a_paused_training_is_stopped_and_goes_on_in_its_folder(run: Run) -> None:
    outcomes: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: outcomes.append(run(steps=40, pause_s=0.1)))
    thread.start()
    _wait_for(lambda: ("progress", 1) in _seen())
    tasks.request_pause("default", "task-1", True)
    thread.join(60)
    assert outcomes == [{"paused": True}] and ("progress", 39) not in _seen()
    assert run(steps=40) == {"paused": True}, "it begins nothing while it is paused"
    tasks.request_pause("default", "task-1", False)
    assert run(steps=3) == {"result": {"counted": 3}}


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_jobs_give_way_and_are_counted(run: Run, home: Path) -> None:
    def counted(outcome: str) -> float:
        return (
            metrics.REGISTRY.get_sample_value("moatelier_worker_jobs_total", {"kind": "train", "outcome": outcome})
            or 0.0
        )

    done, niceness = counted("done"), []
    real = processes._live

    def looked(job: processes.JobProcess) -> int:
        start = job.start

        def started() -> None:
            start()
            assert job.process is not None
            niceness.append(os.getpriority(os.PRIO_PROCESS, job.process.pid))

        job.start = started  # type: ignore[method-assign]
        return real(job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_live", looked)
        run(steps=2)
    assert niceness == [processes.NICE]
    assert counted("done") == done + 1
    metrics.write()
    assert 'moatelier_worker_jobs_running{kind="train"} 0.0' in (home / "worker.prom").read_text()
