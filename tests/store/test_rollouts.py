"""Rollouts in the store: one at a time, moves that are whole, and no move after the end."""

import threading
from pathlib import Path

import pytest

from moatelier.contracts import AdapterManifest, RolloutPlan
from moatelier.errors import Conflict, InvalidRequest, NotFound
from store import adapters, audit, rollouts, tasks

PLAN = RolloutPlan()


@pytest.fixture
def pair(store: Path, manifest: AdapterManifest) -> tuple[str, str]:
    """An alias's champion and another adapter."""
    champion = adapters.register("p", manifest, "task-1").digest
    challenger = adapters.register("p", manifest.model_copy(update={"first_layer": 9}), "task-2").digest
    adapters.set_alias("p", "support", champion, fence=3, actor="task-1")
    return champion, challenger


def test_a_promotion_moves_the_alias_and_everything_with_it(pair: tuple[str, str]) -> None:
    champion, challenger = pair
    begun = rollouts.begin("p", "support", challenger, PLAN, actor="key-1")
    assert (begun.state, begun.champion, begun.challenger) == ("canary", champion, challenger)
    assert rollouts.under_way("p", "support") == begun and rollouts.under_way("q", "support") is None
    moved = rollouts.move("p", begun.id, "promote", "better", actor="rollout")
    assert moved.state == "promoted" and moved.ended and moved.ended_at is not None
    assert adapters.alias_of("p", "support") == (challenger, 4)
    [run] = tasks.unstarted_runs(older_than_s=-1)
    assert run.input == {"adapter": challenger}, "it shall enter `auto` in the champion's place"
    told = [line.action for line in audit.read("p")][-3:]
    assert told == ["rollout.canary", "alias.set", "rollout.promoted"]
    assert rollouts.under_way("p", "support") is None and rollouts.all_open() == []


@pytest.mark.parametrize("first", ["promote", "roll_back", "stop"])
def test_nothing_moves_after_the_end(pair: tuple[str, str], first: str) -> None:
    _, challenger = pair
    begun = rollouts.begin("p", "support", challenger, PLAN, actor="k")
    ended = rollouts.move("p", begun.id, first, "so it is", actor="k")
    pointed = adapters.alias_of("p", "support")
    for later in ("promote", "roll_back", "stop", "canary"):
        assert rollouts.move("p", begun.id, later, "too late", actor="k") == ended
    assert adapters.alias_of("p", "support") == pointed


def test_many_who_decide_at_once_decide_once(pair: tuple[str, str]) -> None:
    begun = rollouts.begin("p", "support", pair[1], PLAN, actor="k")
    moves = ["promote", "roll_back"] * 4
    threads = [threading.Thread(target=rollouts.move, args=("p", begun.id, m, m), kwargs={"actor": m}) for m in moves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = rollouts.get("p", begun.id)
    promoted = ended.state == "promoted"
    assert adapters.alias_of("p", "support") == ((pair[1], 4) if promoted else (pair[0], 3))
    lines = [line.action for line in audit.read("p") if line.subject == begun.id]
    assert len(lines) == 2, "its beginning and one end"


def test_an_alias_has_one_rollout_at_a_time(pair: tuple[str, str]) -> None:
    begun = rollouts.begin("p", "support", pair[1], PLAN, actor="k", id="rollout-1")
    assert rollouts.begin("p", "support", pair[1], PLAN, actor="k", id="rollout-1") == begun
    with pytest.raises(Conflict, match="rollout-1"):
        rollouts.begin("p", "support", pair[1], PLAN, actor="k")
    rollouts.move("p", begun.id, "stop", "enough", actor="k")
    assert rollouts.begin("p", "support", pair[1], PLAN, actor="k").state == "canary"


def test_a_moved_alias_is_not_moved_again(pair: tuple[str, str], manifest: AdapterManifest) -> None:
    begun = rollouts.begin("p", "support", pair[1], PLAN, actor="k")
    other = adapters.register("p", manifest.model_copy(update={"first_layer": 2}), "task-3").digest
    adapters.set_alias("p", "support", other, fence=4, actor="task-3")
    with pytest.raises(Conflict, match="moved meanwhile"):
        rollouts.move("p", begun.id, "promote", "better", actor="k")
    assert adapters.alias_of("p", "support") == (other, 4)
    assert rollouts.get("p", begun.id).state == "canary", "nothing of a refused move is kept"


def test_what_cannot_take_a_place_is_refused(pair: tuple[str, str], manifest: AdapterManifest) -> None:
    with pytest.raises(NotFound, match="no such alias"):
        rollouts.begin("p", "nobody", pair[1], PLAN, actor="k")
    with pytest.raises(NotFound):
        rollouts.begin("p", "support", "f" * 64, PLAN, actor="k")
    with pytest.raises(InvalidRequest, match="is the champion"):
        rollouts.begin("p", "support", pair[0], PLAN, actor="k")
    talker = adapters.register("p", manifest.model_copy(update={"kind": "chat"}), "task-3").digest
    with pytest.raises(InvalidRequest, match="chat of text"):
        rollouts.begin("p", "support", talker, PLAN, actor="k")
    with pytest.raises(NotFound):
        rollouts.get("q", "support")


def test_a_promotion_can_be_taken_back_once(pair: tuple[str, str]) -> None:
    champion, challenger = pair
    begun = rollouts.begin("p", "support", challenger, PLAN, actor="k")
    with pytest.raises(Conflict, match="promoted last"):
        rollouts.revert("p", begun.id, actor="k")
    rollouts.move("p", begun.id, "promote", "better", actor="k")
    assert rollouts.revert("p", "support", actor="k").state == "rolled_back"
    assert rollouts.revert("p", "support", actor="k").state == "rolled_back"
    assert adapters.alias_of("p", "support") == (champion, 5)
