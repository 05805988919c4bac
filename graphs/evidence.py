"""The evidence that nodes gather for the agents: profiles, earlier trials, what the locked rows can show."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents import planner
from agents.curator import OWN_TEST, SEPARATE_TEST
from agents.planner import Defaults, Offer
from agents.trainer import Trial
from evals.power import detectable_gain, detectable_promotion, detectable_rate
from evals.statistics import CLAIM_ALPHA, required_correct
from graphs.nodes import load
from graphs.state import LifecycleState
from moatelier.contracts import AnyProfile, DataProfile, DatasetCard, Question, TaskPlan, read_profile
from moatelier.errors import DataError, NotFound
from moatelier.settings import settings
from modalities import registry
from modalities.halves import halves, parts_of
from modalities.kinds import MEDIA, held
from store import adapters, artifacts, datasets, records

DEFAULT_TRIALS = 3
DEFAULT_BUDGET_S = 1800.0
TEST_SHARE = 0.2
"""Of the rows, when the person brings no test file."""


@dataclass(frozen=True)
class Looks:
    """Read-only looks at a task's files.

    Attributes:
        train: At the training file, without the test it may bring.
        test: At the test file, or at the test within the training file.
        others: At the training file as data of another kind, where it holds several.
    """

    train: AnyProfile
    test: AnyProfile | None
    others: tuple[AnyProfile, ...] = ()


def looks(state: LifecycleState) -> Looks:
    """Look at the training file and, if there is one, the test file.

    Raises:
        DataError: They cannot be read, or hold nothing that could be learnt from.
    """
    train, test = state["files"]["train"], state["files"].get("test")
    first, *others = _held(state, train)
    if test:
        return Looks(_look(state, train, first), _look(state, test, _held(state, test)[0]), _others(state, others))
    learn, locked = _halves(state, train, first) if not others else ((), ())
    return Looks(
        train=_look(state, train, first, learn),
        test=_look(state, train, first, locked) if locked else None,
        others=_others(state, others),
    )


def _others(state: LifecycleState, modalities: Sequence[str]) -> tuple[AnyProfile, ...]:
    return tuple(_look(state, state["files"]["train"], modality) for modality in modalities)


def _held(state: LifecycleState, file_id: str) -> tuple[str, ...]:
    file = datasets.get_file(state["project"], file_id)
    return held(datasets.file_path(state["project"], file_id), file.name)


def _halves(state: LifecycleState, file_id: str, modality: str) -> tuple[Sequence[str], Sequence[str]]:
    if modality not in MEDIA:
        return (), ()
    file = datasets.get_file(state["project"], file_id)
    return halves(parts_of(datasets.file_path(state["project"], file_id), file.name, MEDIA[modality]))


def _look(state: LifecycleState, file_id: str, modality: str, parts: Sequence[str] = ()) -> AnyProfile:
    file = datasets.get_file(state["project"], file_id)
    named = {"parts": parts} if parts else {}
    look: AnyProfile = registry.load(registry.get(modality).data).profile(
        datasets.file_path(state["project"], file_id), file.name, file_id, **named
    )
    return look


def profile(state: LifecycleState) -> AnyProfile:
    """The look at the training file: as what the plan takes it for, where it holds several kinds."""
    digests = [state["profile"], *state.get("other_profiles", [])]
    found = [read_profile(artifacts.get_json(digest)) for digest in digests]
    wanted = _held_by(load(state, "plan", TaskPlan)) if state.get("plan") else found[0].modality
    return next((each for each in found if each.modality == wanted), found[0])


def _held_by(plan: TaskPlan) -> str:
    return registry.get(plan.modality.value).held


def plan_inputs(state: LifecycleState) -> dict[str, Any]:
    """The planner's keyword arguments besides the messages."""
    test, train_file = state.get("test_profile"), state["files"]["train"]
    within = train_file if test else None
    asked = [[Question.model_validate(question) for question in shown] for shown in state.get("asked", [])]
    return {
        "asked": asked,
        "profile": read_profile(artifacts.get_json(state["profile"])),
        "test_profile": read_profile(artifacts.get_json(test)) if test else None,
        "others": [read_profile(artifacts.get_json(digest)) for digest in state.get("other_profiles", [])],
        "train_file": train_file,
        "test_file": state["files"].get("test") or within,
        "defaults": defaults(),
    }


def defaults() -> Defaults:
    """What this service does when a person says nothing, and what it offers."""
    text, now = registry.get("text"), settings()
    bases = {"vision": now.vision_base, "audio": now.audio_base, "imagetext": now.base}
    offers = {name: Offer(base=base, methods=registry.get(name).methods) for name, base in bases.items()}
    offers["vision"] = offers["vision"].model_copy(
        update={"methods": offers["vision"].methods + offers["imagetext"].methods}
    )
    return Defaults(
        # Only the bases that the engine serves: an adapter on another would be certified and then not be served.
        base=now.base,
        bases=now.text_bases,
        trials=DEFAULT_TRIALS,
        seconds=DEFAULT_BUDGET_S,
        methods=text.methods,
        others=offers,
    )


def with_locked_note(state: LifecycleState, plan: TaskPlan) -> TaskPlan:
    """The plan with a note on what its goal takes on the rows that will be locked.

    Raises:
        DataError: The file has too few different rows to lock any of them.
    """
    known = plan_inputs(state)
    meant = [each for each in (known["profile"], *known["others"]) if each.modality == _held_by(plan)]
    locked = _locked_rows(meant[0], known["test_profile"] if plan.test_file else None)
    if not locked:
        raise _too_few(meant[0])
    if not plan.goal.value.target:  # nothing is claimed
        return plan
    goal, champion = plan.goal.value, champion_score(state["project"], plan)
    # Of the base nothing is known yet: a gain on half the rows right is the hardest to show.
    gain = detectable_gain(locked, 0.5) if champion is None else detectable_promotion(locked, goal.target, champion)
    rate = detectable_rate(locked, goal.target)
    required = required_correct(locked, goal.target, CLAIM_ALPHA)
    return planner.with_required(plan, locked, required, rate=rate, gain=gain, champion=champion)


def champion_score(project: str, plan: TaskPlan) -> float | None:
    """What the plan's champion scored at its own gate, by the goal's metric; None without one, or without that."""
    champion = adapters.alias_of(project, plan.name)
    if champion is None:
        return None
    try:
        body = records.newest(project, "gate_decision", champion[0]).body
    except NotFound:
        return None
    metric = body["candidate_report"]["metrics"].get(plan.goal.value.metric)
    return float(metric["point"]) if metric else None


def _locked_rows(profile: AnyProfile, test_profile: AnyProfile | None) -> int:
    """About how many rows will be locked for the gate."""
    return test_profile.rows if test_profile else int((profile.rows - _repeats(profile)) * TEST_SHARE)


def _repeats(profile: AnyProfile) -> int:
    """Rows that are known to repeat others; of media it is not known before all of them are decoded."""
    return profile.exact_duplicates if isinstance(profile, DataProfile) else 0


def _too_few(profile: AnyProfile) -> DataError:
    repeats = _repeats(profile)
    copies = f"; {repeats} of {profile.rows} are copies of others" if repeats else ""
    return DataError(
        f"The file has {profile.rows - repeats} different rows, too few to keep some for the test{copies}.",
        where=profile.name,
        remedy="Add rows that differ from each other: at least 5 of each class.",
    )


def rows_to_train_on(state: LifecycleState, plan: TaskPlan, size: float) -> tuple[int, int]:
    """About how many rows will be trained on, and how many looked at meanwhile; `size` are made of a file's row."""
    look = profile(state)
    rows, own = look.rows - _repeats(look), OWN_TEST if plan.test_file is None else SEPARATE_TEST
    most = (plan.limits and plan.limits.rows) or rows * size
    return max(1, round(min(rows * own["train"] * size, most))), round(rows * own["dev"])


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
