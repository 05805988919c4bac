"""What the worker does with each sweep so that models in use improve by themselves: the loop from answers to answers.

    answers -> numbers -> monitors -> alerts
    feedback -> lessons -> (a person approves) -> triggers -> a retrain task -> the gate -> a rollout -> the alias

Each part stands on the store alone and is idempotent. A part that fails is logged, and the others go on.
"""

import logging
from collections.abc import Callable

from graphs import alerting, lessons, metrics, retraining, rollouts, watching

log = logging.getLogger("moatelier.worker")
PARTS: tuple[Callable[[], object], ...] = (
    rollouts.look_after,
    watching.look_after,
    lessons.gather,
    retraining.fire_due,
    alerting.deliver,
)


def turn() -> None:
    """One turn of everything."""
    for part in PARTS:
        try:
            part()
        except Exception:
            metrics.SWEEPS_FAILED.inc()
            log.exception("%s failed; the next sweep tries again", part.__qualname__)
