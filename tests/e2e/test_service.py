"""A real service on the tiny model: tasks side by side, a hard budget, a question, an end without leftovers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests import fakes
from tests.e2e.harness import Service, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("service")) as running:
        yield running


def test_two_tasks_sent_at_once_both_finish(service: Service, tmp_path: Path) -> None:
    csv = fakes.support_csv(tmp_path / "support.csv")
    begun = [service.begin(csv) for _ in range(2)]
    for thread, _ in begun:
        service.approve(thread)
    ended = [service.end(task) for _, task in begun]
    assert [task["status"] for task in ended] == ["not_reached", "not_reached"]
    assert all(0 <= task["result"]["lower_bound"] <= task["result"]["point"] <= 1 for task in ended)
    with OpenAI(base_url=f"{service.url}/v1", api_key=(service.home / "keys" / "admin.key").read_text()) as client:
        said = [{"role": "user", "content": "where is my parcel"}]
        whole = client.chat.completions.create(model=ended[0]["result"]["model"], messages=said, max_tokens=5)
        parts = client.chat.completions.create(
            model=ended[0]["result"]["model"], messages=said, max_tokens=5, stream=True
        )
        text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content


def test_an_unclear_request_asks_over_http_and_goes_on_in_the_same_thread(service: Service, tmp_path: Path) -> None:
    thread, task = service.begin(fakes.support_csv(tmp_path / "support.csv"), "make it better")
    pending = service.interrupt(thread)
    assert pending["value"]["type"] == "questions"
    body = {"assistant_id": "moatelier", "command": {"resume": {pending["id"]: "80% accuracy, at most 1 trial"}}}
    service.call("POST", f"/threads/{thread}/runs", json=body)
    wait_for("the approval", lambda: service.status(task) == "awaiting_approval")
    assert service.interrupt(thread)["value"]["plan"]["goal"]["value"]["target"] == 0.8
    service.call("POST", f"/tasks/{task}/cancel")
    assert service.end(task)["status"] == "cancelled"


def test_a_time_budget_is_a_hard_stop(service: Service, tmp_path: Path) -> None:
    csv = fakes.support_csv(tmp_path / "support.csv", rows_per_intent=2000)
    words = "predict intent from message, at least 99% accuracy, at most 3 trials, at most 6 seconds of training"
    thread, task = service.begin(csv, words)
    service.approve(thread)
    ended = service.end(task, 400)
    assert ended["status"] == "not_reached" and ended["result"]["train_seconds"] <= 6.5
    assert ended["result"]["model"]


def test_sigterm_in_the_middle_of_a_training_ends_everything_in_10_s(tmp_path: Path) -> None:
    with Service(tmp_path, MOATELIER_FAULT="train.before_first_checkpoint") as service:
        thread, _ = service.begin(fakes.support_csv(tmp_path / "support.csv"))
        service.approve(thread)
        service.stuck_at("train.before_first_checkpoint")
        family = [process.name() for process in service.family()]
        assert len(family) >= 5, family
        assert service.stop() <= 10  # and asserts that nothing is left
