"""A live recipe that people like less than its models alone is stopped by their feedback, and no other one is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphs import feedback as heeding
from moatelier.contracts import Event, Feedback, Recipe, RouteDecision
from moatelier.contracts.base import Contract
from moatelier.errors import MoatelierError
from store import audit, events, feedback, recipes, records

A, B = "a" * 64, "b" * 64
pytestmark = pytest.mark.usefixtures("home")


class Decision(Contract):
    live: bool
    reason: str = "proved"


def recipe(name: str = "panel", **proposer: Any) -> Recipe:
    layers = [{"proposers": [proposer or {"adapter": A}, {"adapter": B}]}]
    return Recipe.model_validate({"name": name, "layers": layers, "aggregator": {"kind": "vote"}})


def live(made: Recipe, key: str = "task-1") -> None:
    recipes.put("p", "", made, actor="k")
    records.sign("p", "mixture_decision", made.digest, key, Decision(live=True))
    recipes.settle("p", made.name, record=key, actor=key)


COUNT = iter(range(10**9))


def judge(requested: str, chosen: str, good: bool) -> None:
    """Somebody asks, is answered, judges the answer, and the judgement is heeded."""
    completion = f"c-{next(COUNT)}"
    reason = "auto" if requested == "auto" else "exact"
    route = RouteDecision(requested=requested, chosen=chosen, reason=reason, completion=completion)
    body = route.model_dump(mode="json")
    events.append([Event(project="p", stream="inference", job=completion, kind="route", body=body)])
    feedback.put("p", f"k-{completion}", Feedback(completion=completion, rating=1 if good else -1), int(good))
    heeding.heed_quietly("p", requested)


def people(ours: float, theirs: float, count: int, chosen: str = A, requested: str = "auto", seed: int = 0) -> int:
    """Judgements until the recipe is stopped; `count` when it is not."""
    random = np.random.default_rng(seed)
    for number in range(count):
        if random.random() < 0.5:
            judge("moa/panel", "panel", bool(random.random() < ours))
        else:
            judge(requested, chosen, bool(random.random() < theirs))
        if recipes.get("p", "panel").state == "disabled":
            return number
    return count


def test_a_recipe_that_turns_bad_is_stopped_within_some_hundred_judgements() -> None:
    live(recipe())
    assert people(0.5, 0.9, 400) < 400
    stopped = recipes.get("p", "panel")
    assert stopped.reason.startswith("Feedback says that its answers are liked less") and "judgements" in stopped.reason
    told = events.find("p", "moa/panel/task-1", "recipe")
    assert told is not None and told.body["state"] == "disabled" and told.body["upper"] < 0
    assert [line.actor for line in audit.read("p") if line.action == "recipe.disabled"] == ["feedback"]


def test_a_recipe_that_people_like_goes_on() -> None:
    live(recipe())
    assert people(0.8, 0.8, 250) == 250
    assert recipes.get("p", "panel").state == "live"


def test_what_other_models_are_worth_says_nothing_of_it() -> None:
    """An adapter of another domain may be liked more: its questions are others."""
    live(recipe())
    assert people(0.5, 0.95, 200, chosen="c" * 64) == 200
    assert people(0.5, 0.95, 200, requested="moa/other", seed=1) == 200, "nor do other recipes' answers"


def test_answers_of_the_base_count_where_it_proposes() -> None:
    live(recipe(base=True))
    assert people(0.3, 0.95, 300, chosen="base") < 300


def test_a_new_proof_begins_anew_and_no_old_word_counts() -> None:
    live(recipe())
    stopped_after = people(0.4, 0.95, 300)
    assert stopped_after < 300
    live(recipe(), key="task-2")
    assert recipes.get("p", "panel").state == "live"
    judge("moa/panel", "panel", False)
    assert recipes.get("p", "panel").state == "live"


def test_a_draft_or_an_unknown_recipe_is_left_alone() -> None:
    recipes.put("p", "", recipe(), actor="k")
    assert people(0.0, 1.0, 150) == 150
    assert heeding.heed("p", "moa/nobody") is None and heeding.heed("p", "auto") is None


def test_a_store_that_is_down_fails_no_feedback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    live(recipe())

    def down(*_: object) -> None:
        raise MoatelierError("The store failed.")

    monkeypatch.setattr(feedback, "words", down)
    heeding.heed_quietly("p", "moa/panel")
    with pytest.raises(MoatelierError):
        heeding.heed("p", "moa/panel")
