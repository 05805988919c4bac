"""The trainer: the first spec from the data's shape, the next from the diagnosis, and when to stop.

Every change comes from the bounded, registered set `agents.actions.ACTIONS`, in the order of `agents.ladder`; a spec
that was tried is never tried again. Time left is the plan's budget less the trials' own seconds, never a clock's, so
that a decision made again after a crash is the same.
"""

import math
from collections.abc import Sequence
from types import MappingProxyType

from agents.actions import ACTIONS, MAX_EPOCHS, About, unfit, whole
from agents.kinds import NOUN
from agents.ladder import Tallies, ordered
from agents.starts import SOLVED, start
from agents.trial import Evidence, Trial, score_of
from moatelier.contracts import (
    Contract,
    DatasetCard,
    Diagnosis,
    Finding,
    Fixed,
    Level,
    MetricName,
    TaskPlan,
    TrainSpec,
)

__all__ = [
    "ACTIONS",
    "MAX_EPOCHS",
    "Change",
    "Stop",
    "Trial",
    "batch_rows",
    "best",
    "explain",
    "first_epochs",
    "first_spec",
    "next_step",
    "usual_epochs",
]

NOTHING_KNOWN: Tallies = MappingProxyType({})
STEPS_WANTED = 100
"""A small set is repeated until it gives about this many optimiser steps."""
OWN_PIXELS = 224
"""What most image models were trained with: the cost of a size is told by it."""
FIRST_SHARE = 0.6
"""The first trial may take this share of the time when others may follow."""
ALL_LAYERS_COST = 3.5
"""A step through all layers against one through the top third, whose input is cached."""
OTHER_METHOD_COST = 1.3
"""What a step of another method may take against a known one."""
FEW_ROWS = 2000
"""Up to so many rows a classification learns at twice the rate: it has few steps to learn in."""
CHECKPOINT_S = 15.0


class Change(Contract):
    """The next trial: what is changed, by which action, because of which finding."""

    spec: TrainSpec
    action: str
    level: Level
    finding: Finding


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


def next_step(
    plan: TaskPlan,
    card: DatasetCard,
    trials: Sequence[Trial],
    diagnosis: Diagnosis,
    *,
    seconds_left: float,
    evidence: Evidence | None = None,
    tallies: Tallies = NOTHING_KNOWN,
    bases: Sequence[str] = (),
) -> Change | Stop:
    """What to change for the next trial, or the reason to stop.

    Args:
        plan: The approved plan.
        card: The curated dataset.
        trials: All trials so far, oldest first; at least one.
        diagnosis: The evaluator's on the last of them.
        seconds_left: Training time left in the budget; how long a trial takes is known from the earlier ones.
        evidence: What the diagnosis saw beside the trials' figures.
        tallies: How actions have fared so far.
        bases: Further bases that could be tuned: proposed when nothing else is left.
    """
    if stop := _enough(plan, trials, diagnosis, seconds_left):
        return stop
    leader = trials[best(trials, plan.goal.value.metric)]
    known = (evidence or Evidence()).model_copy(update={"card": card})
    about, tried = About(leader, plan, known), {_essence(trial.spec) for trial in trials}
    epoch_s, senseless = _measured_epoch(trials), unfit(leader.spec.method)
    for finding, action in ordered(diagnosis.findings, tallies):
        for spec in action.changes(about) if action.name not in senseless else ():
            spec = spec.model_copy(update={"max_seconds": round(seconds_left, 1)})
            if _essence(spec) not in tried and _seconds(spec, leader.spec, epoch_s) <= seconds_left:
                return Change(spec=spec, action=action.name, level=action.level, finding=finding)
    first = diagnosis.findings[0]
    left = f"No registered change is left that fits into {seconds_left:.0f} s."
    if first.kind == "data_fault":
        left = f"{left} Another trial on the same rows would not help: see that their labels are right."
    return Stop(reason=f"{first.text} {left}{_other_base(plan, bases)}")


def _other_base(plan: TaskPlan, bases: Sequence[str]) -> str:
    """The last rung is a person's: the plan that was approved names its base."""
    others = [base for base in bases if base != plan.base.value]
    if plan.base.source == "user" or not others:
        return ""
    return f' The next rung is another base: say "use base {others[0]}" in a new task.'


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
    return most if most < MAX_EPOCHS and most <= min(wanted, affordable) else whole(min(wanted, most, affordable))


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
    if first.kind == "data_fault" and first.confidence == 1:
        return Stop(reason=f"{first.text} Another trial on the same rows would not help. {so_far}")
    return None


# ---------------------------------------------------------------- sizes and times


def _essence(spec: TrainSpec) -> str:
    """What a spec trains, without its time limit."""
    return spec.model_copy(update={"max_seconds": None}).digest


def _epoch_seconds(rows: int, pace: float) -> float:
    return max(rows / max(pace, 1e-3), 1e-3)


def _measured_epoch(trials: Sequence[Trial]) -> float:
    """Seconds an epoch took in the fastest trial."""
    return min(trial.result.seconds / max(trial.result.epochs, 0.1) for trial in trials)


def _seconds(spec: TrainSpec, known: TrainSpec, epoch_s: float) -> float:
    """About how long a spec takes, given seconds an epoch of a known one."""
    cost = ALL_LAYERS_COST if spec.layers == "all" and known.layers != "all" else 1.0
    cost *= OTHER_METHOD_COST if spec.method != known.method else 1.0
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
