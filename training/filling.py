"""Progress while the cache of the frozen layers is filled."""

import time
from collections.abc import Callable

from moatelier.contracts import TrainSpec
from moatelier.errors import ResourceExhausted
from moatelier.job import Job


def fill_progress(spec: TrainSpec, job: Job, began: float) -> Callable[[int, int], None]:
    """What is told of frozen layers that run once, for the job's events; ends the job when it is asked to stop.

    Args:
        spec: Its time limit holds here too.
        job: Told, and asked.
        began: `time.monotonic()` when this began.
    """

    def progress(done: int, batches: int) -> None:
        seconds = time.monotonic() - began
        job.emit("frozen", done, batches=batches, seconds_left=round(seconds / max(1, done) * (batches - done), 1))
        job.check()
        if spec.max_seconds is not None and seconds > spec.max_seconds:
            raise ResourceExhausted(
                f"The time limit of {spec.max_seconds:.0f} s is used up before the first step.",
                where="max_seconds",
                remedy="Allow more time, or train on fewer rows.",
            )

    return progress
