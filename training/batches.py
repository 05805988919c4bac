"""Which rows make up which step: a pure function of the rows' sizes, the seed and the epoch.

So a resumed run needs no memory of the order. Rows of like size are put together, which keeps attention's padding
small, but only within windows of shuffled rows, so that a batch is still a random sample.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

_WINDOW = 8
MICRO_TOKENS = 1024
"""Most tokens, counted as if padded, that go through the layers at once: it bounds the memory of activations."""


@dataclass(frozen=True)
class Example:
    """A row as token ids.

    Attributes:
        name: Where it stands, for messages: split and row number.
        ids: The whole conversation.
        trained: Which of `ids` the loss counts.
        acts: The first token on which the adapter acts.
    """

    name: str
    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    acts: int = 0

    @property
    def targets(self) -> list[int]:
        """The positions whose token is trained."""
        return [position for position, learn in enumerate(self.trained) if learn]


def steps_per_epoch(rows: int, batch_rows: int) -> int:
    """Batches in an epoch; the last one may be smaller."""
    return math.ceil(rows / batch_rows)


def part_of(rows: int, share: float) -> list[int]:
    """The rows of a share of the training set, ascending: the first of one fixed order, so that parts are nested."""
    if share >= 1:
        return list(range(rows))
    order = list(range(rows))
    random.Random("part").shuffle(order)
    return sorted(order[: max(1, round(share * rows))])


def epoch_batches(sizes: Sequence[int], batch_rows: int, seed: int, epoch: int) -> list[list[int]]:
    """All batches of an epoch: every row once, as an index into `sizes`."""
    chance = random.Random(f"{seed}/{epoch}")
    order = list(range(len(sizes)))
    chance.shuffle(order)
    window = _WINDOW * batch_rows
    batches = []
    for start in range(0, len(order), window):
        alike = sorted(order[start : start + window], key=lambda row: sizes[row])
        batches += [alike[at : at + batch_rows] for at in range(0, len(alike), batch_rows)]
    chance.shuffle(batches)
    return batches


def micro_batches(sizes: Sequence[int], rows: Sequence[int], most: int = MICRO_TOKENS) -> list[list[int]]:
    """Cut rows into pieces of at most `most` in size together, as if padded; a larger row stands alone."""
    pieces: list[list[int]] = []
    for row in sorted(rows, key=lambda row: (sizes[row], row)):
        # Sorted by size, so this row is the largest of its piece.
        if pieces and (len(pieces[-1]) + 1) * sizes[row] <= most:
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return pieces
