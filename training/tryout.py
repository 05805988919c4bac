"""Twenty steps of a training on texts, with the real method on rows as long as the real ones: what a forecast rests on.

The rows are random tokens, so that nothing of a person's data is read before a person has approved: only lengths. A
slow machine or long rows get fewer steps: `SECONDS` is all that steps may take together, but for one that has begun.
"""

import random
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from statistics import mean
from typing import Any

import psutil
import torch

from moatelier.contracts import TrainSpec
from moatelier.errors import ResourceExhausted
from moatelier.faults import passed_over
from moatelier.job import Job
from moatelier.memory import available_bytes, gigabytes
from modalities.text.model import TextBase
from training import methods
from training.batches import MICRO_TOKENS, Example
from training.checkpoint import State
from training.loop import Loop, peak_bytes
from training.recovery import Diverged
from training.text import TextObjective, opening

STEPS, WARM = 20, 3
SECONDS = 10.0
_TOKENS = 6_000
"""The rows have about so many tokens together: their way through the frozen layers takes a few seconds."""
_STEP_TOKENS = 2 * MICRO_TOKENS
"""A step has at most about so many: a longer one is more micro-batches of the same kind."""
_LONGEST = 4096
"""Memory of longer rows is told by one of this length."""


def texts(base: TextBase, spec: TrainSpec, told: Mapping[str, Any], job: Job) -> dict[str, float]:
    """Train for a while and throw it away.

    Args:
        base: Loaded.
        spec: Gives method, layers, rank and batch.
        told: `rows` as [tokens, trained tokens] of some that stand for all, `shared`, the tokens that all begin with,
            and maybe `longest`, the tokens of the longest row.
        job: Its folder is used; asked whether to stop.

    Returns:
        `start_seconds` (what comes before, whatever the rows, and what the first steps take more than others),
        `frozen_rows_per_s` (what the frozen layers take once for each row), `train_rows_per_s`, `dev_rows_per_s` (at
        the end of each epoch), `steps` that were taken, `peak_bytes` of this process, `held_bytes` of them before, the
        `micro_tokens` that they are told by, and `cache_bytes` a row, which come on top and which the system can take
        back.

    Raises:
        ResourceExhausted: The longest row needs more memory than there is.
        Cancelled: The job was asked to stop.
    """
    inner = _Within(job)
    size = mean(tokens for tokens, _ in told["rows"])
    step_rows = max(1, min(spec.batch_rows, round(_STEP_TOKENS / size)))
    count = step_rows * max(2, min(STEPS, round(_TOKENS / size / step_rows)))
    dev = max(1, min(64, round(MICRO_TOKENS / size)))
    longest = min(int(told.get("longest", 0)), _LONGEST)
    header = opening(base, methods.load(spec, "text"))
    examples = _examples(base.config.vocab, told["rows"], int(told["shared"]), count, dev, len(header))
    examples += _longer(examples, longest)
    tried = spec.model_copy(update={"batch_rows": step_rows, "epochs": STEPS * step_rows / count})
    held = _held_bytes()
    objective = TextObjective(tried, base, examples, header, "", inner)
    objective.sizes = objective.sizes[: count + dev]  # steps and evaluations leave the longest out
    try:
        tried = tried.model_copy(update={"max_seconds": SECONDS})
        loop = Loop(tried, objective, count, inner, State(spec=tried.digest, data=objective.data, seconds=0.0))
        with passed_over(), suppress(Diverged):  # on random tokens; what steps took is known all the same
            loop.run()
        peak = _peak_with(objective, examples, held) if len(examples) > count + dev else peak_bytes()
    finally:
        objective.close()
        shutil.rmtree(inner.folder)
    own = sum(len(example.ids) - int(told["shared"]) for example in examples)
    warm = min(WARM, len(loop.step_seconds) // 2)
    first, steps = loop.step_seconds[:warm], loop.step_seconds[warm:]
    more = max(0.0, sum(first) - warm * mean(steps))
    frozen = (size - told["shared"]) * objective.frozen_seconds / own
    width = base.model.get_input_embeddings().weight
    return {
        "start_seconds": round(objective.seconds - objective.frozen_seconds + more, 3),
        "frozen_rows_per_s": round(1 / max(frozen, 1e-6), 2),
        "train_rows_per_s": round(step_rows / mean(steps), 3),
        "dev_rows_per_s": round(dev / max(loop.dev_seconds, 1e-6), 2),
        "steps": len(loop.step_seconds),
        "peak_bytes": round(held + (peak - held) * max(1.0, told.get("longest", 0) / _LONGEST)),
        "held_bytes": held,
        "micro_tokens": MICRO_TOKENS,
        "cache_bytes": round((size - told["shared"]) * width.shape[1] * width.element_size()) * objective.cached,
    }


def _peak_with(objective: TextObjective, examples: Sequence[Example], held: int) -> int:
    """The peak with the longest row, which goes through the layers alone.

    Raises:
        ResourceExhausted: By the measure of a full micro-batch there is no room for it.
    """
    before = peak_bytes()
    needed = (before - held) * len(examples[-1].ids) / MICRO_TOKENS
    free = available_bytes()
    if not torch.cuda.is_available() and needed > free + before:
        raise ResourceExhausted(
            f"A row of {len(examples[-1].ids)} tokens takes about {gigabytes(needed)} to train on; "
            f"{gigabytes(free)} are free.",
            where="memory",
            remedy="Leave out the longest rows, free some memory, or use a smaller base.",
        )
    objective.model.train()
    torch.autograd.backward(objective.loss([len(examples) - 1]))
    return peak_bytes()


def _held_bytes() -> int:
    return int(torch.cuda.memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss)


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


def _examples(
    vocabulary: int, rows: Sequence[Sequence[int]], shared: int, count: int, dev: int, header: int
) -> list[Example]:
    """Training rows, then dev rows, each kind with lengths from all over; an answer opens with so many tokens."""
    # Never the same again: the frozen layers' output of an earlier tryout would be found on disk.
    chance = random.Random(time.time_ns())
    beginning = tuple(chance.randrange(vocabulary) for _ in range(shared))
    made: list[Example] = []
    for kind in (count, dev):
        for number in range(kind):
            tokens, trained = rows[(2 * number + 1) * len(rows) // (2 * kind)]
            length = max(tokens - shared, trained + 1, 2)
            ids = beginning + tuple(chance.randrange(vocabulary) for _ in range(length))
            answer = len(ids) - max(trained, 1)
            learnt = tuple(place >= answer for place in range(len(ids)))
            made.append(Example(f"row {len(made)}", ids, learnt, max(0, answer - header) if header else 0))
    return made


def _longer(examples: Sequence[Example], longest: int) -> list[Example]:
    """One more row of so many tokens, if no other needs as much memory: shorter ones are put together anyway."""
    if longest <= max(MICRO_TOKENS, *(len(example.ids) for example in examples)):
        return []
    first = max(examples, key=lambda example: len(example.ids))
    more = longest - len(first.ids)
    ids = (*first.ids, *(first.ids[place % len(first.ids)] for place in range(more)))
    return [Example("longest", ids, (*(False for _ in range(more)), *first.trained))]
