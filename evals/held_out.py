"""The rows that a recipe is asked: of a split that none of its adapters was trained on, the locked ones after a look.

The second reader of the locked rows, beside `evals.gate`, and by the same rule: everything that can fail is checked
first, then the look is written down under task and recipe, then the rows are read. A restarted job uses up no second
look.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evals import vault
from evals.rows import EvalRow, answer_limit, read_rows, split_rows
from evals.statistics import LOOKS
from moatelier.contracts import DatasetCard, MixtureLook, MixtureSpec, SplitName
from moatelier.errors import DataError, NotFound
from moatelier.faults import fault_point
from store import artifacts, datasets, looks

Lengths = Callable[[list[str]], list[int]]
"""Texts -> their lengths in tokens."""


@dataclass(frozen=True)
class Question:
    """One row to be asked.

    Attributes:
        id: The row's.
        group: Rows of one group are no independent draws: what the data keeps together, or the same question.
        messages: What a model sees; pictures and recordings as rows name their artifacts.
        truth: What it should answer.
        max_tokens: Limit of the answer.
    """

    id: str
    group: str
    messages: tuple[dict[str, Any], ...]
    truth: str
    max_tokens: int


@dataclass(frozen=True)
class Questions:
    """What is asked, the looks that were taken for it, and how many rows an adapter had seen."""

    questions: tuple[Question, ...]
    looks: tuple[MixtureLook, ...]
    left_out: int


def locked_questions(spec: MixtureSpec, lengths: Lengths) -> Questions:
    """The locked rows of the spec's datasets; takes the looks.

    Raises:
        LooksExhausted: One of the locked sets has had all its looks.
        NotFound: Dataset or locked rows are missing.
        IntegrityError: They were changed.
        DataError: Every row was seen in training.
    """
    cards = _cards(spec.datasets)
    locked = {card.locked: card for card in cards}  # two tasks on one file may have locked the same rows
    for each in locked:
        vault.need(each)
    fault_point("mixture.before_look")
    numbers = looks.take_looks(spec.project, list(locked), spec.task, spec.recipe, allowed=LOOKS)
    fault_point("mixture.after_look")
    taken = [MixtureLook(locked=each, number=n, allowed=LOOKS) for each, n in zip(locked, numbers, strict=True)]
    rows = [(card, read_rows(vault.open_locked(each))) for each, card in locked.items()]
    return _questions(rows, seen_rows(spec.seen, ("train", "dev", "select")), spec.rows, lengths, tuple(taken))


def open_questions(
    digests: Sequence[str], split: SplitName, seen: Sequence[str], rows: int | None, lengths: Lengths
) -> Questions:
    """Rows of a split that may be read without a look: select or dev.

    Raises:
        NotFound: A dataset is missing.
        DataError: It has no such rows, or every row was seen in training.
    """
    found = [(card, split_rows(card, split)) for card in _cards(digests)]
    before: tuple[SplitName, ...] = ("train",) if split == "dev" else ("train", "dev")
    return _questions(found, seen_rows(seen, before), rows, lengths, ())


def _cards(digests: Sequence[str]) -> list[DatasetCard]:
    return [datasets.get_card(digest) for digest in dict.fromkeys(digests)]


def seen_rows(digests: Sequence[str], splits: Sequence[SplitName]) -> frozenset[str]:
    """Ids of the rows of these splits and of the rows they were made of, and what they ask: media, or words.

    A dataset that is gone cannot be asked.
    """
    seen: set[str] = set()
    for digest in dict.fromkeys(digests):
        try:
            card = datasets.get_card(digest)
        except NotFound:
            continue
        held = [info.artifact for name, info in card.splits.items() if name in splits and info.artifact]
        for row in (row for artifact in held for row in read_rows(artifacts.get_bytes(artifact))):
            seen |= {row.id, *row.asks} | ({row.group} if row.group else set())
    return frozenset(seen)


def _questions(
    found: Sequence[tuple[DatasetCard, list[EvalRow]]],
    seen: frozenset[str],
    most: int | None,
    lengths: Lengths,
    taken: tuple[MixtureLook, ...],
) -> Questions:
    asked: dict[str, Question] = {}
    left_out = 0
    for card, rows in found:
        limit = answer_limit(lengths, card.kind, card.labels, rows) if rows else 0
        for row in rows:
            if not seen.isdisjoint((row.id, *row.asks)):
                left_out += 1
            else:
                asked.setdefault(row.id, Question(row.id, _group(card, row), row.prompt, row.truth, limit))
    if not asked:
        raise DataError(
            "There is no row left that none of the recipe's adapters was trained on.",
            where=", ".join(card.name for card, _ in found),
            remedy="Name a dataset with fresh rows: `--dataset TASK`.",
        )
    ordered = [asked[row] for row in sorted(asked)]
    return Questions(tuple(_evenly(ordered, most or len(ordered))), taken, left_out)


def _group(card: DatasetCard, row: EvalRow) -> str:
    if row.group:
        return f"{card.name}/{row.group}"
    return row.asks[0] if len(row.asks) == 1 else row.id


def _evenly(questions: Sequence[Question], most: int) -> list[Question]:
    step = max(1.0, len(questions) / most)
    return [questions[int(place * step)] for place in range(min(most, len(questions)))]
