"""What the gate is asked, and the last word of a person where the plan wants one."""

from pathlib import Path

import pytest

from graphs import gating, routing
from moatelier.contracts import Goal
from moatelier.contracts.suites import Conditions
from moatelier.settings import settings
from store import adapters, records
from tests import fakes
from tests.evals import samples
from tests.graphs.conftest import Player
from tests.graphs.test_lifecycle import REQUEST


@pytest.fixture
def asking(player: Player, tmp_path: Path) -> Player:
    """A task whose promotion a person wants to see first, as far as that question."""
    player.say(REQUEST, train=player.upload(fakes.support_csv(tmp_path / "support.csv")))
    wish = {"conditions": {"retention": False, "safety": False, "approval": True}}
    player.answer(
        {
            "version": player.pending()["version"],
            "decisions": [{"type": "edit", "edited_action": {"name": "train", "args": wish}}],
        }
    )
    assert player.pending()["plan"]["conditions"]["approval"]
    player.approve()
    asked = player.pending()
    assert asked["type"] == "questions" and asked["questions"][0]["field"] == "promotion"
    assert "The lower bound meets the goal." in asked["questions"][0]["text"]
    return player


def test_a_yes_promotes_and_is_signed(asking: Player) -> None:
    asking.answer("yes")
    task = asking.ended()
    assert task.result is not None and task.result["promoted"] and task.result["alias"] == task.name
    word = records.get("default", "promotion", task.id).body
    assert word["approved"] and word["words"] == "yes"


def test_anything_else_keeps_the_adapter_without_the_alias(asking: Player) -> None:
    asking.answer({"promotion": "not before Monday"})
    task = asking.ended()
    assert task.status == "reached" and task.result is not None
    assert not task.result["promoted"] and task.result["alias"] is None
    assert "It was not approved: not before Monday." in task.result["reason"]
    assert adapters.alias_of("default", task.name) is None
    assert not records.get("default", "promotion", task.id).body["approved"]
    assert records.get("default", "gate_decision", task.id).body["promoted"]  # what the gate found stands as it was
    verdict = routing.gate_verdict("default", task.result["adapter"])
    assert verdict is not None and not verdict.promoted  # so that `auto` does not choose it later either


def test_a_plan_that_says_nothing_is_judged_by_what_is_tuned(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = samples.plan()
    assert gating.wanted(labels) is None
    chat = labels.model_copy(update={"kind": labels.kind.model_copy(update={"value": "chat"})})
    assert gating.wanted(chat) == Conditions()
    monkeypatch.setenv("MOATELIER_GUARD", "judge/model")
    settings.cache_clear()
    assert gating.wanted(chat) == Conditions(guard="judge/model")
    own = Conditions(retention=False, size_mb=3)
    assert gating.wanted(chat.model_copy(update={"conditions": own})) == own


def test_the_smallest_effect_stands_in_the_plan_before_it_is_approved(player: Player, tmp_path: Path) -> None:
    player.say(REQUEST, train=player.upload(fakes.support_csv(tmp_path / "support.csv", rows_per_intent=400)))
    plan = player.pending()["plan"]
    [note] = [note for note in plan["notes"] if note.startswith("Locked rows: ")]
    assert Goal.model_validate(plan["goal"]["value"]).target == 0.8
    assert "Smallest effects with 85 % power: a model that is truly right in " in note
    assert "points on the base, whatever it scores, is shown" in note
