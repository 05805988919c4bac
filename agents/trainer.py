"""The trainer: the first spec from the data's shape, the next from the diagnosis, and when to stop.

Every change comes from the bounded, registered set `ACTIONS`; a spec that was tried is never tried again. Time left
is the plan's budget less the trials' own seconds, never a clock's, so that a decision made again after a crash is the
same.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agents.evaluator import score_of
from agents.kinds import NOUN
from agents.starts import SOLVED, start
from agents.trial import Trial
from moatelier.contracts import Contract, DatasetCard, Diagnosis, Fixed, MetricName, TaskPlan, TrainSpec

__all__ = [
    "ACTIONS",
    "Stop",
    "Trial",
    "best",
    "batch_rows",
    "explain",
    "first_epochs",
    "first_spec",
    "next_spec",
    "usual_epochs",
]

STEPS_WANTED = 100
"""A small set is repeated until it gives about this many optimiser steps."""
MAX_EPOCHS = 12
OWN_PIXELS = 224
"""What most image models were trained with: the cost of a size is told by it."""
FIRST_SHARE = 0.6
"""The first trial may take this share of the time when others may follow."""
ALL_LAYERS_COST = 3.5
"""A step through all layers against one through the top third, whose input is cached."""
FEW_ROWS = 2000
"""Up to so many rows a classification learns at twice the rate: it has few steps to learn in."""
CHECKPOINT_S = 15.0


class Stop(Contract):
    """No further trial, and why."""

    reason: str
    reached: bool = False
    """Whether the best trial meets the goal on select rows, as a point estimate."""


def first_spec(
    plan: TaskPlan, card: DatasetCard, *, seconds_left: float, pace: float, frozen_seconds: float = 0.0
) -> TrainSpec:
    """The first trial's spec, from the number and length of the rows and the time there is.

    Args:
        plan: The approved plan.
        card: The curated dataset.
        seconds_left: Training time left in the budget.
        pace: Training speed by the probe, in rows a second.
        frozen_seconds: Of the budget go to what is done once before the first step.
    """
    rows, usual, fixed = max(card.splits["train"].rows, 1), start(plan.method.value), plan.fixed or Fixed()
    batch = batch_rows(plan, rows)
    epochs = first_epochs(plan, rows, seconds_left=seconds_left, pace=pace, frozen_seconds=frozen_seconds)
    return TrainSpec(
        method=plan.method.value,
        base=plan.base.value,
        dataset=card.digest,
        suffix=plan.name,
        rank=usual.rank,
        alpha=usual.alpha,
        layers=usual.layers,
        learning_rate=_learning_rate(plan, rows) * fixed.rate_multiplier,
        epochs=epochs,
        batch_rows=batch,
        max_tokens=_max_tokens(plan, card),
        checkpoint_every=_checkpoint_every(batch, pace, epochs * rows / batch),
        max_seconds=round(max(seconds_left, 1.0), 1),
        seed=plan.seed,
        size=card.size,
        vision=card.vision,
        window_s=card.window_s,
        beta=fixed.beta,
        rewards=fixed.rewards,
    )


def next_spec(
    plan: TaskPlan,
    card: DatasetCard,
    trials: Sequence[Trial],
    diagnosis: Diagnosis,
    *,
    seconds_left: float,
) -> TrainSpec | Stop:
    """The next trial's spec, or the reason to stop.

    Args:
        plan: The approved plan.
        card: The curated dataset.
        trials: All trials so far, oldest first; at least one.
        diagnosis: The evaluator's on the last of them.
        seconds_left: Training time left in the budget; how long a trial takes is known from the earlier ones.
    """
    if stop := _enough(plan, trials, diagnosis, seconds_left):
        return stop
    leader = trials[best(trials, plan.goal.value.metric)]
    tried = {_essence(trial.spec) for trial in trials}
    epoch_s = _measured_epoch(trials)
    unfit = {*ACTION_NAMES} if plan.method.value in SOLVED else start(plan.method.value).unfit
    for finding in diagnosis.findings:
        for action in (action for action in ACTIONS[finding.kind] if action.name not in unfit):
            spec = action.change(leader)
            spec = spec.model_copy(update={"max_seconds": round(seconds_left, 1)})
            if _essence(spec) not in tried and _seconds(spec, leader.spec, epoch_s) <= seconds_left:
                return spec
    return Stop(
        reason=f"{diagnosis.findings[0].text} No registered change is left that fits into {seconds_left:.0f} s."
    )


def batch_rows(plan: TaskPlan, rows: int) -> int:
    """Rows of a step of a first trial on so many."""
    if plan.fixed and plan.fixed.batch_rows:
        return plan.fixed.batch_rows
    usual = start(plan.method.value).batch_rows
    return usual if rows >= 6 * usual else usual // 2


def first_epochs(plan: TaskPlan, rows: int, *, seconds_left: float, pace: float, frozen_seconds: float) -> float:
    """Epochs of a first trial on so many rows: those that are fixed, or what a small set wants and the time allows."""
    if plan.fixed and plan.fixed.epochs:
        return plan.fixed.epochs
    wanted = max(math.ceil(STEPS_WANTED * batch_rows(plan, rows) / max(rows, 1)), start(plan.method.value).epochs)
    most = (plan.limits and plan.limits.epochs) or MAX_EPOCHS
    share = FIRST_SHARE if plan.budget.value.trials > 1 else 0.9
    affordable = max(share * seconds_left - frozen_seconds, 0.0) / _epoch_seconds(rows, pace)
    return most if most < MAX_EPOCHS and most <= min(wanted, affordable) else _epochs(min(wanted, most, affordable))


def usual_epochs(plan: TaskPlan) -> float:
    """How many epochs a first trial of the plan takes at least if time allows; 0 where nothing is done in steps."""
    if plan.fixed and plan.fixed.epochs:
        return plan.fixed.epochs
    most = (plan.limits and plan.limits.epochs) or MAX_EPOCHS
    return 0.0 if plan.method.value in SOLVED else min(start(plan.method.value).epochs, most)


def best(trials: Sequence[Trial], metric: MetricName) -> int:
    """The index of the trial with the best select score; ties go to the lower dev loss, then to the earlier one."""

    def rank(index: int) -> tuple[float, float, int]:
        loss = trials[index].result.dev_loss
        return -score_of(trials[index].select, metric), math.inf if loss is None else loss, index

    return min(range(len(trials)), key=rank)


def explain(spec: TrainSpec, card: DatasetCard, before: TrainSpec | None = None) -> str:
    """A spec in one sentence: what it trains, or what it changes against an earlier spec."""
    if before is None:
        return _told(spec, card)
    both = {name: (getattr(before, name), getattr(spec, name)) for name in TrainSpec.model_fields}
    changes = [f"{name} {old} -> {new}" for name, (old, new) in both.items() if old != new and name != "max_seconds"]
    return f"Changed: {', '.join(changes)}." if changes else "The same again."


def _told(spec: TrainSpec, card: DatasetCard) -> str:
    rows = f"{card.splits['train'].rows} {NOUN.get(card.modality, 'row')}s"
    if spec.method in SOLVED:
        return f"{rows}, {spec.method}: computed at once, in at most {spec.max_seconds or 0:.0f} s."
    rank = f" of rank {spec.rank}" if spec.rank > 1 else ""
    layers = "the top third of the layers" if spec.layers == "top_third" else "all layers"
    heard = f", seen at {spec.size} pixels" if spec.size else ""
    heard += f", heard in windows of {spec.window_s:g} s" if spec.window_s else ""
    return (
        f"{rows}, {spec.epochs:g} epochs in batches of {spec.batch_rows}, {spec.method}{rank} on {layers}{heard}, "
        f"learning rate {spec.learning_rate:g}, at most {spec.max_seconds or 0:.0f} s."
    )


# ---------------------------------------------------------------- when to stop


def _enough(plan: TaskPlan, trials: Sequence[Trial], diagnosis: Diagnosis, seconds_left: float) -> Stop | None:
    goal = plan.goal.value
    leader = trials[best(trials, goal.metric)]
    score = score_of(leader.select, goal.metric)
    if score >= goal.target:
        return Stop(
            reason=f"Select {goal.metric} is {score:.3f}, at or above the goal of {goal.target:g}.", reached=True
        )
    so_far = f"The best select {goal.metric} is {score:.3f}, the goal {goal.target:g}."
    if len(trials) >= plan.budget.value.trials:
        return Stop(reason=f"All {len(trials)} trials of the budget are used. {so_far}")
    fastest = _measured_epoch(trials)
    if seconds_left < max(fastest, 1.0):
        return Stop(
            reason=f"{max(seconds_left, 0):.0f} s are left of the time budget, less than one epoch takes "
            f"({fastest:.0f} s). {so_far}"
        )
    first = diagnosis.findings[0]
    if first.kind == "data_fault":
        return Stop(reason=f"{first.text} Another trial on the same rows would not help. {so_far}")
    return None


# ---------------------------------------------------------------- actions


@dataclass(frozen=True)
class Action:
    """One registered change: its name and how it turns the best trial's spec into another."""

    name: str
    change: Callable[[Trial], TrainSpec]


def _more_epochs(trial: Trial) -> TrainSpec:
    return _with(trial, epochs=min(2 * trial.spec.epochs, 2.0 * MAX_EPOCHS))


def _epochs_to_the_minimum(trial: Trial) -> TrainSpec:
    """Stop where dev loss was lowest."""
    curve = trial.result.dev_curve
    if not curve or not trial.result.steps:
        return _with(trial, epochs=max(1.0, trial.spec.epochs / 2))
    step = min(curve, key=lambda point: point[1])[0]
    return _with(trial, epochs=_epochs(max(1.0, trial.spec.epochs * step / trial.result.steps)))


def _with(trial: Trial, **changes: object) -> TrainSpec:
    return trial.spec.model_copy(update=changes)


MORE_EPOCHS = Action("more_epochs", _more_epochs)
HALF_MORE_EPOCHS = Action("half_more_epochs", lambda trial: _with(trial, epochs=_epochs(1.5 * trial.spec.epochs)))
EPOCHS_TO_THE_MINIMUM = Action("epochs_to_the_minimum", _epochs_to_the_minimum)
HIGHER_RATE = Action("higher_rate", lambda trial: _with(trial, learning_rate=min(2 * trial.spec.learning_rate, 4e-3)))
LOWER_RATE = Action("lower_rate", lambda trial: _with(trial, learning_rate=max(trial.spec.learning_rate / 2, 5e-5)))
MORE_RANK = Action(
    "more_rank", lambda trial: _with(trial, rank=min(2 * trial.spec.rank, 64), alpha=min(2 * trial.spec.alpha, 128.0))
)
ALL_LAYERS = Action("all_layers", lambda trial: _with(trial, layers="all", learning_rate=trial.spec.learning_rate / 2))
DROPOUT = Action("dropout", lambda trial: _with(trial, dropout=0.1, weight_decay=0.01))
SMALLER_BATCH = Action("smaller_batch", lambda trial: _with(trial, batch_rows=max(trial.spec.batch_rows // 2, 4)))
DECAY = Action("decay", lambda trial: _with(trial, weight_decay=max(4 * trial.spec.weight_decay, 0.05)))
AUGMENT = Action("augment", lambda trial: _with(trial, augment=True, epochs=_epochs(1.5 * trial.spec.epochs)))
MORE_PIXELS = Action("more_pixels", lambda trial: _with(trial, size=None))
OTHER_SEED = Action("other_seed", lambda trial: _with(trial, seed=trial.spec.seed + 1))

ACTIONS: Mapping[str, tuple[Action, ...]] = {
    "underfit": (MORE_EPOCHS, HIGHER_RATE, HALF_MORE_EPOCHS, SMALLER_BATCH, ALL_LAYERS),
    "overfit": (EPOCHS_TO_THE_MINIMUM, AUGMENT, DROPOUT, LOWER_RATE, DECAY),
    "never_stops": (MORE_EPOCHS, HALF_MORE_EPOCHS, HIGHER_RATE),
    "plateau": (ALL_LAYERS, AUGMENT, MORE_RANK, MORE_PIXELS, LOWER_RATE, SMALLER_BATCH, OTHER_SEED),
    "healthy": (HALF_MORE_EPOCHS, ALL_LAYERS, AUGMENT, MORE_PIXELS, LOWER_RATE, MORE_RANK, OTHER_SEED),
    "data_fault": (),
}
"""Diagnosis -> what may be changed for it, most promising first; not all of it has a meaning for every method."""
ACTION_NAMES = frozenset(action.name for actions in ACTIONS.values() for action in actions)


# ---------------------------------------------------------------- sizes and times


def _essence(spec: TrainSpec) -> str:
    """What a spec trains, without its time limit."""
    return spec.model_copy(update={"max_seconds": None}).digest


def _epochs(wanted: float) -> float:
    """Whole epochs from two on, halves and tenths below: dev loss is measured at the end of each."""
    return float(math.floor(wanted)) if wanted >= 2 else max(math.floor(10 * wanted) / 10, 0.1)


def _epoch_seconds(rows: int, pace: float) -> float:
    return max(rows / max(pace, 1e-3), 1e-3)


def _measured_epoch(trials: Sequence[Trial]) -> float:
    """Seconds an epoch took in the fastest trial."""
    return min(trial.result.seconds / max(trial.result.epochs, 0.1) for trial in trials)


def _seconds(spec: TrainSpec, known: TrainSpec, epoch_s: float) -> float:
    """About how long a spec takes, given seconds an epoch of a known one."""
    cost = ALL_LAYERS_COST if spec.layers == "all" and known.layers != "all" else 1.0
    smaller = known.batch_rows / spec.batch_rows
    pixels = ((spec.size or OWN_PIXELS) / (known.size or OWN_PIXELS)) ** 2
    return spec.epochs * epoch_s * cost * pixels * (1 + 0.1 * max(smaller - 1, 0))


def _learning_rate(plan: TaskPlan, rows: int) -> float:
    usual = start(plan.method.value)
    if plan.modality.value != "text" or usual.whole:
        return usual.learning_rate
    if plan.kind.value != "classification":
        return usual.learning_rate / 2
    return 2 * usual.learning_rate if rows <= FEW_ROWS else usual.learning_rate


def _max_tokens(plan: TaskPlan, card: DatasetCard) -> int:
    longest = card.report.token_lengths.get("max", 0.0)
    return max(1024, 64 * math.ceil(longest / 64) + 64)


def _checkpoint_every(batch: int, pace: float, steps: float) -> int:
    """About every `CHECKPOINT_S`, and at least every quarter of the run."""
    step_s = batch / max(pace, 1e-3)
    return min(max(round(CHECKPOINT_S / max(step_s, 1e-3)), 5), max(round(steps / 4), 5), 200)
