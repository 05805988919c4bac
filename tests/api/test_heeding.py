"""Feedback over HTTP stops a live recipe, which then answers no more; what came of its evaluation can be read."""

from typing import Any

import httpx
import openai
import pytest

from moatelier.contracts import Event, Feedback, Recipe, RouteDecision
from moatelier.contracts.base import Contract
from store import events, feedback, recipes, records
from tests.api.conftest import Service, make_adapter
from tests.api.running import wait_until


class Decision(Contract):
    live: bool = True
    reason: str = "proved"


@pytest.fixture
def digests(service: Service) -> list[str]:
    """A live recipe `panel` of two adapters."""
    found = [make_adapter("one", seed=1).digest, make_adapter("two", seed=2).digest]
    layers = [{"proposers": [{"adapter": digest} for digest in found]}]
    made = Recipe.model_validate({"name": "panel", "layers": layers, "aggregator": {"kind": "vote", "prior": 0}})
    recipes.put("default", "name: panel", made, actor="k")
    records.sign("default", "mixture_decision", made.digest, "task-1", Decision())
    recipes.settle("default", "panel", record="task-1", actor="task-1")
    return found


def judged(number: int, requested: str, chosen: str, good: bool) -> None:
    route = RouteDecision(requested=requested, chosen=chosen, reason="exact", completion=f"c-{number}")
    body: dict[str, Any] = route.model_dump(mode="json")
    events.append([Event(project="default", stream="inference", job=f"c-{number}", kind="route", body=body)])
    feedback.put("default", f"k-{number}", Feedback(completion=f"c-{number}", rating=1 if good else -1), int(good))


def test_the_last_word_that_was_missing_stops_the_recipe(
    client: openai.OpenAI, http: httpx.Client, digests: list[str]
) -> None:
    asked: Any = {"model": "moa/panel", "messages": [{"role": "user", "content": "where is it?"}]}
    answer = client.chat.completions.create(**asked)
    for number in range(100):
        ours = number % 2 == 0
        judged(number, "moa/panel" if ours else "one", digests[0], good=not ours)
    assert recipes.get("default", "panel").state == "live", "nobody has asked for a look yet"
    kept = http.post("/v1/feedback", json={"completion": answer.id, "rating": -1})
    assert kept.status_code == 200, kept.text
    shown = http.get("/v1/moa/panel").json()
    assert shown["state"] == "disabled" and shown["reason"].startswith("Feedback says")
    wait_until(lambda: refused(client, asked), timeout_s=5)  # requests know recipes as of a second ago at most


def refused(client: openai.OpenAI, asked: Any) -> bool:
    try:
        client.chat.completions.create(**asked)
    except openai.BadRequestError as error:
        assert "Feedback says" in str(error) and "moatelier moa evaluate panel" in str(error)
        return True
    return False


def test_the_decision_can_be_read_and_checked(http: httpx.Client, digests: list[str]) -> None:
    record = http.get("/v1/moa/panel/decision").json()
    assert record["kind"] == "mixture_decision" and record["body"]["live"] and record["signature"]
    recipes.put(
        "default",
        "name: panel",
        recipes.get("default", "panel").sealed.model_copy(update={"summary": "changed"}),
        actor="k",
    )
    missing = http.get("/v1/moa/panel/decision")
    assert missing.status_code == 404 and "has not been evaluated as it is now" in missing.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("panel/evaluations", {"rows": 0}, 400),
        ("panel/evaluations", {"split": "train"}, 400),
        ("panel/evaluations", {"datasets": ["nothing"]}, 404),
        ("panel/evaluations", {"more": 1}, 400),
        ("nobody/evaluations", {}, 404),
        ("nobody/candidates", {}, 404),
        ("panel/candidates", {"rows": "many"}, 400),
    ],
)
def test_bad_requests_are_refused_and_start_nothing(
    http: httpx.Client, digests: list[str], path: str, body: dict[str, Any], status: int
) -> None:
    refused = http.post(f"/v1/moa/{path}", json=body)
    assert refused.status_code == status and refused.json()["error"]["code"], refused.text
    assert http.get("/tasks").json()["data"] == []
