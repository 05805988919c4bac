"""An order becomes a plan by the planner's own rules; what it leaves open is refused, never asked or guessed."""

from typing import Any

import pytest

from agents import orders
from agents.trainer import batch_rows, first_epochs
from moatelier.contracts import Columns, DataProfile, Fixed, Order, RewardSpec, TaskPlan
from moatelier.errors import DataError, InvalidRequest
from tests.agents.scenes import CHAT, DEFAULTS, SUPPORT, TEAMS, column, profile

OFFERED = DEFAULTS.model_copy(update={"methods": ("lora", "dpo", "orpo")})
PAIRS = profile(
    [column("input", 900, 300), column("good", 900, 300), column("bad", 900, 300)],
    [("input", "input", 0.95), ("target", "good", 0.95), ("rejected", "bad", 0.95)],  # type: ignore[list-item]
    kind="preference",
    name="pairs.jsonl",
)
PROMPTS = profile(
    [column("messages", 900, 300), column("sum", 500)], [("target", "sum", 0.5)], kind=None, name="prompts.jsonl"
)


def planned(data: DataProfile, method: str = "supervised", **fields: Any) -> TaskPlan:
    order = Order.model_validate({"model": DEFAULTS.base, "method": method} | fields)
    return orders.plan(order, profile=data, train_file="file-train", defaults=OFFERED)


def test_every_value_says_where_it_comes_from_and_nothing_is_claimed_unasked() -> None:
    plan = planned(CHAT, suffix="Help Desk", seed=3)
    assert (plan.name, plan.seed, plan.kind.value, plan.method.value) == ("help-desk", 3, "chat", "lora")
    assert plan.goal.value.target == 0 and "no goal" in plan.goal.reason
    assert (plan.budget.value.trials, plan.budget.value.seconds, plan.budget.source) == (1, orders.SECONDS, "default")
    assert plan.columns.value == Columns(messages="messages") and plan.fixed is None


def test_a_goal_and_a_budget_in_words_are_read_as_a_persons() -> None:
    plan = planned(SUPPORT, goal="92% accuracy", budget="20 minutes, 2 trials")
    assert (plan.goal.value.metric, plan.goal.value.target) == ("accuracy", 0.92)
    assert (plan.budget.value.seconds, plan.budget.value.trials) == (1200, 2)


def test_what_was_fixed_is_what_the_trainer_does() -> None:
    plan = planned(CHAT, fixed=Fixed(epochs=7, batch_rows=3))
    assert batch_rows(plan, 10_000) == 3
    assert first_epochs(plan, 10_000, seconds_left=1.0, pace=1.0, frozen_seconds=0.0) == 7
    free = planned(CHAT)
    assert first_epochs(free, 10_000, seconds_left=1.0, pace=1.0, frozen_seconds=0.0) < 1


def test_pairs_are_for_dpo_and_dpo_is_for_pairs() -> None:
    assert planned(PAIRS, "dpo").method.value == "dpo"
    with pytest.raises(DataError, match="no pairs"):
        planned(CHAT, "dpo")
    with pytest.raises(DataError, match="holds pairs"):
        planned(PAIRS)


def test_prompts_are_rewarded_by_what_stands_in_the_named_column() -> None:
    reward = RewardSpec(kind="string_check")
    plan = planned(PROMPTS, "reinforcement", reference="sum", fixed=Fixed(rewards=(reward,)))
    assert (plan.method.value, plan.kind.value) == ("grpo", "chat")
    assert plan.columns.value == Columns(messages="messages", target="sum")
    assert plan.fixed is not None and plan.fixed.rewards == (reward,)


@pytest.mark.parametrize(
    ("data", "fields", "where"),
    [
        (TEAMS, {}, "tickets.csv"),  # two columns could be the target
        (CHAT, {"goal": "fairly good"}, "goal"),
        (CHAT, {"suffix": "auto"}, "name"),
    ],
)
def test_what_would_be_asked_is_refused(data: DataProfile, fields: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        planned(data, **fields)
    assert refused.value.where == where
