"""A few made-up requests for every route; `python -m tests.api.fuzz --minutes 10` sends many."""

import pytest

from graphs import jobs
from store import tasks
from tests.api.conftest import Service
from tests.api.fuzz import fuzz
from tests.api.world import Things


@pytest.mark.parametrize("number", [0, 1])
def test_nothing_made_up_meets_a_fault_or_an_undeclared_answer(
    service: Service, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def submit(run_id: str) -> None:
        if tasks.find_thread(tasks.find_run(run_id).thread).graph == "conversation":
            service.worker.submit_run(run_id)

    monkeypatch.setattr(jobs, "submit_run", submit)
    monkeypatch.setattr(jobs, "cancel_task", tasks.request_cancel)
    found = fuzz(service.url, service.key, 3, number, Things("default"))
    assert not found.faults, "\n\n".join(found.faults)
    assert found.requests > 100 and found.statuses[200] > 10
