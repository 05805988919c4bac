"""The face of the job layer, with a job layer that never gets round to the job."""

from types import SimpleNamespace
from typing import Any

import pytest

from graphs import jobs
from moatelier.errors import Cancelled
from store import tasks


class Busy:
    """Another task's training holds the only place."""

    def __init__(self) -> None:
        self.status, self.cancelled = "ENQUEUED", list[str]()

    def enqueue(self, options: dict[str, Any], *_: Any) -> Any:
        if "FINISHED" not in self.status:
            tasks.request_cancel("default", "task-1")  # while it waits
        return SimpleNamespace(get_status=lambda: SimpleNamespace(status=self.status))

    def cancel_workflow(self, key: str) -> None:
        self.cancelled.append(key)
        self.status = "CANCELLED"


def test_a_job_that_waits_for_its_turn_is_never_begun_once_its_task_is_cancelled(
    home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.create_task("default", id="task-1", thread="t", conversation="c", request="r", train_file="f", test_file=None)
    busy = Busy()
    monkeypatch.setattr(jobs, "client", lambda: busy)
    for _ in range(2):  # a node that runs again after a crash ends in the same way
        with pytest.raises(Cancelled):
            jobs.run_job("train", {}, project="default", stream="c", task="task-1", thread="t")
    assert len(busy.cancelled) == 1


def test_a_paused_job_is_asked_for_again_under_another_name_once_it_may_go_on(
    home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.create_task("default", id="task-1", thread="t", conversation="c", request="r", train_file="f", test_file=None)
    asked: list[tuple[str, str]] = []

    def enqueue(options: dict[str, Any], key: str, *_: Any) -> Any:
        asked.append((options["workflow_id"], key))
        paused = len(asked) == 1
        tasks.request_pause("default", "task-1", False)
        outcome = {"paused": True} if paused else {"result": {"steps": 3}}
        return SimpleNamespace(get_status=lambda: SimpleNamespace(status="SUCCESS"), get_result=lambda: outcome)

    monkeypatch.setattr(jobs, "client", lambda: SimpleNamespace(enqueue=enqueue))
    key, result = jobs.run_job("train", {}, project="default", stream="c", task="task-1", thread="t")
    assert result == {"steps": 3} and asked == [(key, key), (f"{key}-1", key)]


def test_a_task_that_is_cancelled_while_it_is_paused_waits_no_longer(home: Any) -> None:
    tasks.create_task("default", id="task-1", thread="t", conversation="c", request="r", train_file="f", test_file=None)
    assert jobs.held("task-1") is False and jobs.held(None) is False
    tasks.request_pause("default", "task-1", True)
    tasks.request_cancel("default", "task-1")
    assert jobs.held("task-1") is True
