"""What the planner reads of a search, in plain sentences, and what it makes of it in the plan."""

from typing import Any

import pytest

from agents.planner import Defaults, plan, revise
from moatelier.contracts import Search, TaskPlan
from moatelier.errors import InvalidRequest
from tests.agents.scenes import SUPPORT, planned, questions

GOAL = "Predict intent from message, at least 90% accuracy"
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
ALL = {"batch_rows": (8, 16, 32), "learning_rate": RATES, "rank": (4, 8, 16, 32)}


@pytest.mark.parametrize(
    ("words", "by", "space"),
    [
        ("search over ranks and learning rates", "tpe", {"rank": (4, 8, 16, 32), "learning_rate": RATES}),
        ("search over ranks 4, 8 and 16", "tpe", {"rank": (4, 8, 16)}),
        ("sweep learning rates (5e-4, 1e-3, 2e-3)", "tpe", {"learning_rate": (5e-4, 1e-3, 2e-3)}),
        ("search learning rates from 1e-4 to 1e-3", "tpe", {"learning_rate": (1e-4, 2.2e-4, 4.6e-4, 1e-3)}),
        ("search ranks between 4 and 32, batch sizes 8 or 16", "tpe", {"rank": (4, 8, 16, 32), "batch_rows": (8, 16)}),
        ("grid search over ranks 4/8/16 and 3 epochs", "grid", {"rank": (4, 8, 16), "epochs": (3.0,)}),
        ("random search over epochs 2-4", "random", {"epochs": (2.0, 3.0, 4.0)}),
        ("search over data parts 25%, 50 % and 100%", "tpe", {"data_part": (0.25, 0.5, 1.0)}),
        ("search over shares of the data", "tpe", {"data_part": (0.25, 0.5, 1.0)}),
        ("vary the layers", "tpe", {"layers": ("all", "top_third")}),
        ("do a hyperparameter search", "tpe", ALL),
        ("do a random search", "random", ALL),
        ("use optuna", "tpe", ALL),
        ("tune the hyperparameters by grid search", "grid", ALL),
        ("find the best learning rate", "tpe", {"learning_rate": RATES}),
        ("try different ranks", "tpe", {"rank": (4, 8, 16, 32)}),
    ],
)
def test_a_search_is_read(words: str, by: str, space: dict[str, Any]) -> None:
    plan = planned(f"{GOAL}, {words}.")
    assert (plan.search.value.by, plan.search.value.space) == (by, space)
    assert plan.search.source == "user" and plan.search.reason.startswith("You said ")
    assert plan.goal.value.target == 0.9 and plan.columns.value.target == "intent"
    assert not [note for note in plan.notes if "not taken over" in note]


@pytest.mark.parametrize(
    "words",
    [
        "",
        ", no hyperparameter search",
        ", without a grid search",
        ", tune all layers",
        ", use batch size 16",
        ", 3 epochs",
    ],
)
def test_what_is_no_search(words: str) -> None:
    assert planned(f"{GOAL}{words}.").search.value.by == "none"


def test_budget_and_search_are_told_apart() -> None:
    plan = planned(f"{GOAL}; search over ranks 4, 8, 12 trials, in at most 30 minutes")
    assert plan.search.value.space == {"rank": (4, 8)}
    assert (plan.budget.value.trials, plan.budget.value.seconds) == (12, 1800)
    assert planned(f"{GOAL}; search over ranks 8, 16, 90% accuracy").search.value.space == {"rank": (8, 16)}


def test_a_search_has_twelve_trials_unless_there_are_fewer_settings() -> None:
    assert planned(f"{GOAL}, search over ranks and learning rates").budget.value.trials == 12
    assert planned(f"{GOAL}, search over ranks").budget.value.trials == 4
    assert planned(GOAL).budget.value.trials == 3


def test_methods_on_offer_are_searched_and_others_are_asked_about() -> None:
    offer = Defaults(base="tiny", methods=("lora", "alora"))

    def asked(words: str) -> Any:
        return plan([f"{GOAL}, {words}"], SUPPORT, train_file="f", defaults=offer)

    assert asked("search over methods").search.value.space == {"method": ("alora", "lora")}
    assert asked("search over methods lora and alora, ranks 4 and 8").search.value.space["rank"] == (4, 8)


def test_values_that_cannot_be_tried_are_asked_about_and_answered() -> None:
    said = f"{GOAL}, search over ranks 0 and 8"
    question = questions(said)["search"]
    assert "rank 0 is outside of 1 to 256" in question.text
    assert planned(said, "yes").search.value.space == ALL
    assert planned(said, "search over ranks 4 and 8").search.value.space == {"rank": (4, 8)}


def test_a_plan_without_a_search_is_the_record_it_was() -> None:
    plan = planned(GOAL)
    assert "search" not in plan.model_dump(mode="json")
    assert TaskPlan.model_validate(plan.model_dump(mode="json")) == plan
    searched = planned(f"{GOAL}, search over ranks")
    assert TaskPlan.model_validate(searched.model_dump(mode="json")).digest == searched.digest


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ("grid search over ranks 4 and 8", Search(by="grid", space={"rank": (4, 8)})),
        ({"by": "random"}, Search(by="random", space={"rank": (4, 8, 16, 32)})),
        ({"space": {"rank": [8, 4]}}, Search(by="tpe", space={"rank": (4, 8)})),
        ({"by": "none"}, Search()),
        ("no search", Search()),
    ],
)
def test_a_person_changes_the_search_before_approving(edit: Any, expected: Search) -> None:
    plan = planned(f"{GOAL}, search over ranks")
    revised = revise(plan, {"search": edit})
    assert revised.search.value == expected and revised.search.source == "user"


def test_a_search_can_be_added_to_a_plan_and_a_broken_one_is_refused() -> None:
    plan = planned(GOAL)
    added = revise(plan, {"search": {"by": "tpe", "space": {"rank": [4, 8]}}, "budget": {"trials": 8}})
    assert added.search.value.space == {"rank": (4, 8)}
    for edit in ({"by": "tpe"}, {"by": "grid", "space": {"rank": [0]}}, "search over stars", {"space": {"mood": [1]}}):
        with pytest.raises(InvalidRequest):
            revise(plan, {"search": edit})
    with pytest.raises(InvalidRequest, match="method"):
        revise(plan, {"search": {"by": "tpe", "space": {"method": ["magic"]}}}, defaults=Defaults(base=plan.base.value))
