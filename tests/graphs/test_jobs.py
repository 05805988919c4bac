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
