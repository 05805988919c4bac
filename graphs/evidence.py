"""The evidence that nodes gather for the agents: profiles, earlier trials, what the locked rows can show."""

from typing import Any

from agents import planner
from agents.planner import Defaults
from agents.trainer import Trial
from evals.statistics import CLAIM_ALPHA, required_correct
from graphs.nodes import load
from graphs.state import LifecycleState
from moatelier.contracts import DataProfile, DatasetCard, Question, TaskPlan
from moatelier.errors import DataError
from moatelier.settings import settings
from modalities.text import data
from modalities.text.config import TEXT
from store import artifacts, datasets

DEFAULT_TRIALS = 3
DEFAULT_BUDGET_S = 1800.0
TEST_SHARE = 0.2
"""Of the rows, when the person brings no test file."""


def profiles(state: LifecycleState) -> tuple[DataProfile, DataProfile | None]:
    """Read-only looks at the training file and, if there is one, the test file."""

    def look(role: str) -> DataProfile | None:
        file_id = state["files"].get(role)
        if not file_id:
            return None
        file = datasets.get_file(state["project"], file_id)
        return data.profile(datasets.file_path(state["project"], file_id), file.name, file_id)

    train = look("train")
    assert train is not None  # the conversation starts no task without it
    return train, look("test")


def plan_inputs(state: LifecycleState) -> dict[str, Any]:
    """The planner's keyword arguments besides the messages."""
    test = state.get("test_profile")
    asked = [[Question.model_validate(question) for question in shown] for shown in state.get("asked", [])]
    return {
        "asked": asked,
        "profile": load(state, "profile", DataProfile),
        "test_profile": DataProfile.model_validate(artifacts.get_json(test)) if test else None,
        "train_file": state["files"]["train"],
        "test_file": state["files"].get("test"),
        "defaults": defaults(),
    }


def defaults() -> Defaults:
    """What this service does when a person says nothing, and what it offers."""
    # Only the base that the engine serves: an adapter on another would be certified and then not be served.
    return Defaults(base=settings().base, trials=DEFAULT_TRIALS, seconds=DEFAULT_BUDGET_S, methods=TEXT.methods)


def with_locked_note(state: LifecycleState, plan: TaskPlan) -> TaskPlan:
    """The plan with a note on what its goal takes on the rows that will be locked.

    Raises:
        DataError: The file has too few different rows to lock any of them.
    """
    known = plan_inputs(state)
    locked = _locked_rows(known["profile"], known["test_profile"])
    if not locked:
        raise _too_few(known["profile"])
    return planner.with_required(plan, locked, required_correct(locked, plan.goal.value.target, CLAIM_ALPHA))


def _locked_rows(profile: DataProfile, test_profile: DataProfile | None) -> int:
    """About how many rows will be locked for the gate."""
    if test_profile:
        return test_profile.rows
    return int((profile.rows - profile.exact_duplicates) * TEST_SHARE)


def _too_few(profile: DataProfile) -> DataError:
    distinct = profile.rows - profile.exact_duplicates
    copies = f"; {profile.exact_duplicates} of {profile.rows} are copies of others" if profile.exact_duplicates else ""
    return DataError(
        f"The file has {distinct} different rows, too few to keep some for the test{copies}.",
        where=profile.name,
        remedy="Add rows that differ from each other: at least 5 of each class.",
    )


def train_share(plan: TaskPlan) -> float:
    """The share of the rows that is trained on."""
    return 0.8 if plan.test_file else 0.6


def trials(state: LifecycleState) -> list[Trial]:
    """The task's finished trials in order."""
    return [Trial.model_validate(artifacts.get_json(digest)) for digest in state.get("trials", [])]


def card(state: LifecycleState) -> DatasetCard:
    """The curated dataset."""
    return datasets.get_card(state["dataset"])


def seconds_left(state: LifecycleState) -> float:
    """The training time that the budget still allows."""
    budget = load(state, "plan", TaskPlan).budget.value.seconds
    return budget - sum(trial.result.seconds for trial in trials(state))
