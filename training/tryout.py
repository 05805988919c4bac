"""Twenty steps of a training on texts, with the real method on rows as long as the real ones: what a forecast rests on.

The rows are random tokens, so that nothing of a person's data is read before a person has approved: only lengths.
"""

import random
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from moatelier.contracts import TrainSpec
from moatelier.job import Job
from modalities.text.model import TextBase
from training.batches import Example
from training.checkpoint import State
from training.loop import Loop, peak_bytes
from training.text import TextObjective

STEPS, WARM = 20, 3
_MOST_TOKENS = 24_000
"""Rows are so many that they have at most this many tokens together: long ones take long."""
_LEAST_ROWS = 4


def texts(base: TextBase, spec: TrainSpec, told: Mapping[str, Any], job: Job) -> dict[str, float]:
    """Train for a while and throw it away.

    Args:
        base: Loaded.
        spec: Gives method, layers, rank and batch.
        told: `rows` as [tokens, trained tokens] of some that stand for all, and `shared`, the tokens that all begin with.
        job: Its folder is used; asked whether to stop.

    Returns:
        `frozen_rows_per_s` (what the frozen layers take once), `train_rows_per_s`, and `peak_bytes` of this process.
    """
    inner = _Within(job)
    examples = _examples(base.config.vocab, told["rows"], int(told["shared"]), spec.batch_rows)
    objective = TextObjective(spec, base, examples, [], "", job)
    try:
        start = State(spec=spec.digest, data=objective.data, seconds=0.0)
        loop = Loop(spec, objective, len(examples), inner, start)
        loop.run()
    finally:
        objective.close()
        shutil.rmtree(inner.folder)
    steps = loop.step_seconds[WARM:] or loop.step_seconds
    return {
        "frozen_rows_per_s": round(len(examples) / max(objective.seconds, 1e-3), 2),
        "train_rows_per_s": round(len(examples) / loop.steps / (sum(steps) / len(steps)), 2),
        "peak_bytes": peak_bytes(),
    }


class _Within(Job):
    """A training within another job: it stops with that, and its events are nobody's."""

    def __init__(self, outer: Job) -> None:
        self._outer = outer
        shutil.rmtree(outer.folder / "tryout", ignore_errors=True)  # of one that was killed
        super().__init__(outer.folder / "tryout", quiet=True)

    @property
    def should_stop(self) -> bool:
        """See `Job`."""
        return self._outer.should_stop

    def check(self) -> None:
        """See `Job`."""
        self._outer.check()


def _examples(vocabulary: int, rows: Sequence[Sequence[int]], shared: int, batch: int) -> list[Example]:
    mean = sum(tokens for tokens, _ in rows) / len(rows)
    count = max(_LEAST_ROWS, min(STEPS * batch, round(_MOST_TOKENS / mean)))
    chance = random.Random(0)
    beginning = tuple(chance.randrange(vocabulary) for _ in range(shared))
    made = []
    for number in range(count):
        tokens, trained = rows[number * len(rows) // count]
        own = tuple(chance.randrange(vocabulary) for _ in range(max(tokens - shared, trained + 1)))
        ids = beginning + own
        made.append(Example(f"row {number}", ids, tuple(place >= len(ids) - trained for place in range(len(ids)))))
    return made
