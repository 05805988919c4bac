"""A real service on the tiny model: tasks side by side, `auto`, a hard budget, a question, an end without leftovers."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests import fakes
from tests.e2e.harness import MODEST, Service, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("service"), embedding="all-minilm-l6-v2") as running:
        yield running


@pytest.fixture(scope="module")
def ended(service: Service, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two tasks that were sent at once, at their end; the tests below share what they have trained."""
    csv = fakes.support_csv(tmp_path_factory.mktemp("rows") / "support.csv")
    begun = [service.begin(csv, MODEST) for _ in range(2)]
    for thread, _ in begun:
        service.approve(thread)
    return [service.end(task) for _, task in begun]


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    key = (service.home / "keys" / "admin.key").read_text()
    with OpenAI(base_url=f"{service.url}/v1", api_key=key) as made:
        yield made


def test_two_tasks_sent_at_once_both_finish(ended: list[dict[str, Any]], client: OpenAI) -> None:
    assert [task["status"] for task in ended] == ["reached", "reached"]
    assert all(0 <= task["result"]["lower_bound"] <= task["result"]["point"] <= 1 for task in ended)
    model, said = ended[0]["result"]["model"], [{"role": "user", "content": "where is my parcel"}]
    whole = client.chat.completions.create(model=model, messages=said, max_tokens=5)
    parts = client.chat.completions.create(model=model, messages=said, max_tokens=5, stream=True)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content


def auto(client: OpenAI, text: str) -> tuple[Any, dict[str, Any]]:
    """An answer to `auto`, and its route."""
    said = [{"role": "user", "content": text}]
    answer = client.chat.completions.create(model="auto", messages=said, max_tokens=2)
    return answer, dict(answer.model_extra["moatelier"]["route"])


def test_auto_sends_the_domains_texts_to_its_adapter_and_others_to_the_base(
    service: Service, ended: list[dict[str, Any]], client: OpenAI
) -> None:
    """With the real embedding model on the real engine."""
    wait_for("auto to be offered", lambda: "auto" in [model.id for model in client.models.list()])
    [alias] = {name for adapter in service.call("GET", "/adapters")["data"] for name in adapter["aliases"]}
    [holder] = [adapter for adapter in service.call("GET", "/adapters")["data"] if alias in adapter["aliases"]]
    for text in ("my parcel has not come since 5 days", "please refund my order, for reason 12"):
        answer, route = auto(client, text)
        assert answer.choices[0].message.content is not None
        assert (answer.model, route["chosen"], route["reason"]) == (holder["model_id"], holder["digest"], "auto"), text
        assert route["propensity"] == 1 and route["probabilities"][holder["digest"]] > 0.5
    for text in ("Who wrote the Iliad?", "How many legs does a spider have?"):
        answer, route = auto(client, text)
        assert (answer.model, route["chosen"], route["reason"]) == ("tiny", "base", "abstain"), text


def test_feedback_reaches_the_store_and_moves_auto(
    service: Service, ended: list[dict[str, Any]], client: OpenAI
) -> None:
    """Told often enough that the adapter's answers are bad, `auto` asks the base, though it knows whose text it is."""
    text = "where is my parcel"
    _, first = auto(client, text)
    assert first["chosen"] == first["region"] != "base" and "base" in first["probabilities"]
    given = []

    def complain() -> bool:
        answer, route = auto(client, text)
        if route["chosen"] == "base":
            return True
        service.call("POST", "/v1/feedback", json={"completion": answer.id, "rating": -1, "comment": "no"})
        given.append(answer.id)
        return False

    wait_for("the route to move", complain, 60)
    _, moved = auto(client, text)
    assert (moved["chosen"], moved["region"], moved["reason"]) == ("base", first["region"], "abstain")
    with sqlite3.connect(service.home / "moatelier.db") as store:
        kept = store.execute("SELECT completion, rating, chosen FROM feedback").fetchall()
    store.close()
    assert sorted(kept) == sorted((completion, -1, first["chosen"]) for completion in given)
    assert auto(client, "my parcel has not come since 5 days")[1]["region"] == first["region"]


def test_pairs_of_answers_are_learnt_judged_and_served(service: Service, tmp_path: Path, client: OpenAI) -> None:
    """Which of two answers people want, from a file of pairs to a promoted adapter."""
    texts = [text for intent in fakes.INTENTS.values() for text in intent]
    pairs = [
        {
            "prompt": f"{texts[number % len(texts)]} since {number} days",
            "chosen": f"{texts[number % 5]} please",
            "rejected": f"{texts[number % 5]} order",
        }
        for number in range(200)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    words = "Prefer the chosen answers, at least 60%, at most 1 trial, within 10 minutes"
    thread, task = service.begin(file, words)
    assert service.interrupt(thread)["value"]["plan"]["method"]["value"] == "dpo"
    service.approve(thread)
    ended = service.end(task, 300)
    assert ended["status"] == "reached" and ended["result"]["lower_bound"] >= 0.6, ended
    said = [{"role": "user", "content": pairs[0]["prompt"]}]
    answer = client.chat.completions.create(model=ended["result"]["model"], messages=said, max_tokens=5)
    assert answer.choices[0].message.content is not None


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
    csv = fakes.support_csv(tmp_path / "support.csv", rows_per_intent=800)
    words = "predict intent from message, at least 99% accuracy, at most 3 trials, at most 6 seconds of training"
    thread, task = service.begin(csv, words)
    pending = service.interrupt(thread)
    if pending["value"]["refused"]:  # on most machines three epochs take longer: fewer are chosen, by number
        service.say(thread, "1")
        wait_for("the next approval", lambda: service.interrupt(thread)["id"] != pending["id"])
        assert not service.interrupt(thread)["value"]["refused"]
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
