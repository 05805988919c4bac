"""The part of a task that searches: one leg of one trial at a time, each a durable job under its own key."""

import shutil
from typing import Any

from agents import halving, trainer
from agents.halving import Score, Train
from agents.rungs import RUNGS, Searched, one_whole
from agents.trainer import Stop
from graphs import evidence, forecasting
from graphs.nodes import decided, load, run_job, say, set_status
from graphs.state import LifecycleState
from moatelier.contracts import DatasetCard, Leg, TaskPlan, TrainSpec
from moatelier.errors import Cancelled, DataError, MoatelierError
from moatelier.faults import fault_point
from moatelier.settings import settings
from store import artifacts


def wanted(state: LifecycleState) -> bool:
    """Whether the plan asks for a search."""
    return load(state, "plan", TaskPlan).search.value.by != "none"


def legs(state: LifecycleState) -> list[Leg]:
    """What ran so far, oldest first."""
    return [Leg.model_validate(artifacts.get_json(digest)) for digest in state.get("legs", [])]


def usual(plan: TaskPlan, card: DatasetCard, pace: float, frozen_seconds: float) -> TrainSpec:
    """The spec that trials differ from, of so many epochs as let the whole search fit, by the forecast."""
    budget = plan.budget.value
    one = one_whole(max(budget.seconds - frozen_seconds, 0.0), budget.trials)
    spec = trainer.first_spec(plan, card, seconds_left=one / trainer.FIRST_SHARE, pace=pace)
    return spec.model_copy(update={"max_seconds": round(budget.seconds, 1)})


def advance(state: LifecycleState) -> LifecycleState:
    """Decide the next move and carry it out: a leg is run, or one is handed on to be scored, or the search ends."""
    about, ran = _about(state), legs(state)
    if not ran:
        set_status(state, "training")
    fault_point("node.searching")
    move = halving.next_move(about, ran, [trial.result.bundle for trial in evidence.trials(state)])
    decided(state, "trainer", move.model_dump(mode="json"), move.reason)
    if isinstance(move, Stop):
        return _ended(state, move, ran)
    if isinstance(move, Score):
        assert move.leg.result is not None, "only legs that ended are scored"
        return {
            "spec": artifacts.put_json(move.leg.spec),
            "pending": move.leg.result.model_dump(mode="json"),
            "trained_by": move.leg.key,
            "stop": "",
        }
    leg = _run(state, move, ran)
    say(state, "trial", **_shown(leg))
    for trial in halving.done_with(about, [*ran, leg]):
        _forget(each for each in [*ran, leg] if each.trial == trial)
    return {"legs": [artifacts.put_json(leg)], "stop": "", "pending": {}}


def _run(state: LifecycleState, move: Train, ran: list[Leg]) -> Leg:
    """Run a leg's job; one that fails is a leg too, and the search goes on without that trial."""
    attempt = RUNGS * move.leg.trial + move.leg.rung
    try:
        key, result = run_job(state, "train", move.leg.spec.model_dump(mode="json"), attempt=attempt)
    except Cancelled:
        raise
    except MoatelierError as error:
        return move.leg.model_copy(update={"error": f"{error.what} ({error.code})"})
    leg = Leg.model_validate(move.leg.model_dump() | {"key": key, "result": result})
    return leg.model_copy(update={"seconds": round(halving.measured(leg, halving.before(leg, ran)), 2)})


def _ended(state: LifecycleState, stop: Stop, ran: list[Leg]) -> LifecycleState:
    forget(state)
    if not state.get("trials"):
        raise DataError(stop.reason, where="search", remedy="Search other values, or leave the search to the trainer.")
    return {"stop": stop.reason}


def forget(state: LifecycleState) -> None:
    """Remove the checkpoints of all legs: nothing goes on from them any more."""
    _forget(legs(state))


def _forget(gone: Any) -> None:
    for leg in gone:
        if leg.key:
            shutil.rmtree(settings().home / "jobs" / leg.key / "checkpoints", ignore_errors=True)


def _shown(leg: Leg) -> dict[str, Any]:
    """A leg as readers are told of it."""
    told = {"trial": leg.trial + 1, "rung": leg.rung + 1, "values": leg.values, "seconds": leg.seconds}
    if leg.result is None:
        return told | {"status": "failed", "reason": leg.error}
    return told | {
        "status": leg.result.stopped,
        "steps": leg.result.steps,
        "dev_loss": leg.result.dev_loss,
        "train_loss": leg.result.train_loss,
        "bundle": leg.result.bundle,
    }


def _about(state: LifecycleState) -> Searched:
    plan, card = load(state, "plan", TaskPlan), evidence.card(state)
    return Searched(
        search=plan.search.value,
        usual=load(state, "usual", TrainSpec),
        rows=card.splits["train"].rows,
        trials=plan.budget.value.trials,
        seconds=plan.budget.value.seconds,
        row_seconds=1 / max(forecasting.pace(state["forecast"]), 1e-3),
    )
