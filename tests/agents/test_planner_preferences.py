"""Tasks on preferences: pairs of answers, and thumbs."""

from typing import Any

import pytest

from agents.planner import revise
from moatelier.contracts import Columns
from moatelier.errors import InvalidRequest
from tests.agents.scenes import CHAT, DEFAULTS, column, outcome, planned, profile, questions

METHODS = ("lora", "alora", "dpo", "orpo", "kto")
OFFERED = DEFAULTS.model_copy(update={"methods": METHODS})
PAIRS = profile(
    [column("prompt", 900, 200), column("chosen", 900, 300), column("rejected", 900, 300)],
    [("input", "prompt", 0.95), ("target", "chosen", 0.95), ("rejected", "rejected", 0.95)],  # type: ignore[list-item]
    kind="preference",
    name="pairs.csv",
)
THUMBS = profile(
    [column("prompt", 900, 200), column("answer", 900, 300), column("thumb", 2, 5)],
    [("input", "prompt", 0.95), ("target", "answer", 0.95), ("thumb", "thumb", 0.95)],  # type: ignore[list-item]
    kind="thumbs",
    name="thumbs.csv",
)


@pytest.fixture(autouse=True)
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.agents.scenes.DEFAULTS", OFFERED)


@pytest.mark.parametrize(
    "words",
    [
        "Prefer the chosen answers, at least 80%",
        "Learn from pairs.csv to answer like the chosen column, 80 % right",
        "Preference accuracy of at least 80%",
        "A win rate of 80% please",
    ],
)
def test_pairs_are_learnt_by_dpo(words: str) -> None:
    plan = planned(words, data=PAIRS)
    assert (plan.kind.value, plan.method.value) == ("preference", "dpo")
    assert plan.columns.value == Columns(input="prompt", target="chosen", rejected="rejected")
    assert (plan.goal.value.metric, plan.goal.value.target) == ("preference_accuracy", 0.8)


def test_thumbs_are_learnt_by_kto() -> None:
    plan = planned("Learn from the thumbs, 70%", data=THUMBS)
    assert (plan.kind.value, plan.method.value) == ("thumbs", "kto")
    assert plan.columns.value == Columns(input="prompt", target="answer", thumb="thumb")
    assert plan.goal.value.metric == "preference_accuracy"


def test_orpo_is_taken_when_it_is_named() -> None:
    assert planned("Use ORPO to prefer the chosen answers, 80%", data=PAIRS).method.value == "orpo"


@pytest.mark.parametrize(("words", "data"), [("Use KTO, 80%", PAIRS), ("use dpo, 80%", CHAT), ("use lora, 80%", PAIRS)])
def test_a_method_for_other_rows_is_asked_about(words: str, data: Any) -> None:
    asked = questions(words, data=data)
    assert "method" in asked and "are not learnt by it" in asked["method"].text


def test_a_measure_that_preferences_lack_is_asked_about() -> None:
    asked = outcome("Macro-F1 of 80%", data=PAIRS)
    assert isinstance(asked, tuple) and "preference accuracy" in asked[0].text


def test_a_preference_accuracy_of_conversations_is_asked_about() -> None:
    asked = questions("preference accuracy of 80%", data=CHAT)
    assert "not preference accuracy" in asked["goal"].text


def test_an_edit_cannot_take_a_role_away() -> None:
    plan = planned("Prefer the chosen answers, 80%", data=PAIRS)
    with pytest.raises(InvalidRequest, match="rejected column"):
        revise(plan, {"columns": {"input": "prompt", "target": "chosen", "rejected": None}}, PAIRS, OFFERED)
