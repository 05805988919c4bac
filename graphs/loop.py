"""What the worker does with each sweep so that models in use improve by themselves: the loop from answers to answers.

    answers -> numbers -> monitors -> alerts
    feedback -> lessons -> (a person approves) -> triggers -> a retrain task -> the gate -> a rollout -> the alias

Each part stands on the store alone and is idempotent. A part that fails is logged, and the others go on.
"""

import logging
from datetime import datetime, timedelta

from graphs import alerting, lessons, metrics, retraining, rollouts, watching
from moatelier.contracts import now

LATE = timedelta(hours=1)
"""So late an answer's words may be written after the feedback on it."""
log = logging.getLogger("moatelier.worker")


class Loop:
    """The loop in one process. What it remembers only saves it from looking twice."""

    def __init__(self) -> None:
        self._looked: dict[str, object] = {}
        self._observed = 0
        self._heard: datetime | None = None

    def turn(self) -> None:
        """One turn of everything."""
        for part in (self._roll, self._watch, self._learn, retraining.fire_due, alerting.deliver):
            try:
                part()
            except Exception:
                metrics.SWEEPS_FAILED.inc()
                log.exception("%s failed; the next sweep tries again", part.__qualname__)

    def _roll(self) -> None:
        rollouts.look_after(self._looked)

    def _watch(self) -> None:
        self._observed = watching.look_after(self._observed)

    def _learn(self) -> None:
        begun = now()
        if lessons.gather(self._heard) < lessons.MOST:
            self._heard = begun - LATE
