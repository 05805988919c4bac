"""How far a search's trials go at each rung, and what a trial's settings make of its spec."""

import math

from agents.sampling import Values
from agents.starts import start
from moatelier.contracts import Contract, Search, TrainSpec

ETA = 3
"""At each rung one trial in so many goes on, and it sees so many times the rows."""
RUNGS = 3
SLACK = 0.9
"""Of the time budget so much is planned with: forecasts err."""
LEAST_STEPS = 8
"""The first rung is no lower than this: the first steps of a warm-up tell nothing."""
LOADING_S = 15.0
"""What starting a job takes, until one has been measured."""


class Searched(Contract):
    """What a search is about, the same throughout.

    Attributes:
        search: Way and space.
        usual: The spec that the trainer would begin with; what is not in the space stays as it says.
        rows: Training rows.
        trials: How many there may be.
        seconds: The time budget.
        row_seconds: What training on a row takes by the probe.
    """

    search: Search
    usual: TrainSpec
    rows: int
    trials: int
    seconds: float
    row_seconds: float


def spec_of(usual: TrainSpec, values: Values) -> TrainSpec:
    """A trial's spec: the usual one with what was drawn; another method brings the rest of its own start along."""
    method = str(values.get("method", usual.method))
    own = start(method)
    changes: dict[str, object] = dict(values)
    if method != usual.method:
        changes = {
            "rank": own.rank,
            "alpha": own.alpha,
            "layers": own.layers,
            "learning_rate": own.learning_rate,
        } | changes
    if own.rank == 1:
        changes |= {"rank": 1, "alpha": own.alpha}
    elif "rank" in values:
        changes["alpha"] = own.alpha * float(values["rank"]) / own.rank
    return TrainSpec.model_validate(usual.model_dump() | changes)


def steps_of(spec: TrainSpec, rows: int) -> int:
    """Optimiser steps of a whole training, as the loop counts them."""
    part = rows if spec.data_part >= 1 else max(1, round(spec.data_part * rows))
    return max(1, math.ceil(spec.epochs * math.ceil(part / spec.batch_rows)))


def one_whole(seconds: float, trials: int) -> float:
    """How long one whole training may take so that a search of so many trials fits into so many seconds."""
    depth, going, cost, jobs = _depth(trials), trials, 0.0, 0
    for height in range(depth):
        before = ETA ** (height - depth) if height else 0.0
        cost, jobs = cost + going * (ETA ** (height + 1 - depth) - before), jobs + going
        going = math.ceil(going / ETA)
    return max(SLACK * seconds - jobs * LOADING_S, seconds / ETA) / cost


def _depth(trials: int) -> int:
    return min(RUNGS, 1 + math.ceil(math.log(max(trials, 1), ETA) - 1e-9))


def rungs_of(about: Searched) -> tuple[int, ...]:
    """Rows seen at each rung, ascending; the last is the most that any trial sees."""
    largest: dict[str, float] = {}
    for name in ("epochs", "data_part", "batch_rows"):
        own = getattr(about.usual, name)
        largest[name] = max(float(value) for value in about.search.space.get(name, (own,)))
    whole = math.ceil(largest["epochs"] * max(1, round(largest["data_part"] * about.rows)))
    depth = _depth(about.trials)
    shares = [ETA**-height for height in range(depth - 1, -1, -1)]
    return tuple(
        math.ceil(share * whole) for share in shares if share * whole >= LEAST_STEPS * largest["batch_rows"]
    ) or (whole,)


def told(values: Values) -> str:
    """Settings in words."""
    shown = ", ".join(f"{name.replace('_', ' ')} {_told(value)}" for name, value in values.items())
    return shown or "the usual settings"


def _told(value: object) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value).replace("_", " ")
