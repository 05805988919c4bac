"""How the learning rate moves over a run: a share of `TrainSpec.learning_rate` for each step. Imports no torch.

Every schedule warms up in a straight line over `warmup_ratio` of the steps; what follows is named by the spec:

    cosine            half a cosine down to 0
    linear, constant
    wsd               stays, then falls over the last fifth by 1 - sqrt (arXiv 2405.18392), so that a run that goes on
                      longer shares its beginning
    inverse_sqrt      falls with the root of the steps (arXiv 1706.03762)
    cosine_restarts   `cycles` cosines one after another (arXiv 1608.03983)
    polynomial        the square of what is left
"""

import math
from collections.abc import Callable, Mapping

from moatelier.contracts import TrainSpec

_DECAY = 0.2
_POWER = 2


def share(spec: TrainSpec, step: int, steps: int) -> float:
    """What the learning rate is multiplied by, from 0 to 1.

    Args:
        spec: Names the schedule, the warm-up and the cycles.
        step: Which step, from 0.
        steps: Of the whole run.
    """
    warmup = round(spec.warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if spec.schedule == "inverse_sqrt":
        return math.sqrt(max(1, warmup) / max(1, warmup, step))
    left = max(0.0, (steps - step) / max(1, steps - warmup))
    if spec.schedule == "cosine_restarts":
        gone = math.ceil(left * spec.cycles) - left * spec.cycles  # of this cycle
        return _cosine(1 - gone)
    return _OF_WHAT_IS_LEFT[spec.schedule](left)


def _cosine(left: float) -> float:
    return 0.5 * (1 - math.cos(math.pi * left))


def _wsd(left: float) -> float:
    return 1.0 if left >= _DECAY else 1 - math.sqrt(1 - left / _DECAY)


_OF_WHAT_IS_LEFT: Mapping[str, Callable[[float], float]] = {
    "cosine": _cosine,
    "linear": lambda left: left,
    "constant": lambda left: 1.0,
    "wsd": _wsd,
    "polynomial": lambda left: left**_POWER,
}
"""Share of the steps after the warm-up that is left, from 1 down to 0 -> share of the learning rate."""
