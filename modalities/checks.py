"""What keeps rows from being a dataset at all: refused before anything is queued, with the row and what to do."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

from rapidfuzz import process

from moatelier.errors import DataError
from modalities.base import Example
from modalities.text.duplicates import normalise
from modalities.text.reading import place

R = TypeVar("R", bound=Example)


_MOST_UNUSABLE = 0.5


def refuse_unusable(rows: Sequence[Example]) -> None:
    """Refuse a file most of whose rows cannot be used: something is wrong with the whole of it.

    Raises:
        DataError: Tells the first.
    """
    broken = [(row, row.problem) for row in rows if row.problem is not None]
    if len(broken) > _MOST_UNUSABLE * len(rows):
        row, first = broken[0]
        raise DataError(
            f"{len(broken)} of {len(rows)} rows cannot be used; the first: {first.reason}",
            where=place(row.file, first.row, first.line, first.field),
            remedy=first.remedy,
        )


def check_rows(
    rows: Sequence[Example],
    usable: Sequence[Example],
    distinct: Sequence[Example],
    clusters: Sequence[Sequence[int]],
    apart: str = "by more than a word",
) -> None:
    """Refuse rows that cannot make a dataset.

    Args:
        rows: All that were read.
        usable: Those without a problem of their own.
        distinct: Of these, the ones that repeat no earlier row.
        clusters: Near-duplicate clusters, as positions in `usable`.
        apart: By what rows of different clusters differ, in words.

    Raises:
        DataError: Nothing usable, one label only, a class with one row, a label in two spellings, only duplicates.
    """
    if not usable:
        raise DataError("No row can be used.", where=rows[0].file if rows else "", remedy="Add complete rows.")
    file = usable[0].file
    if usable[0].label is not None:
        _check_labels(usable, distinct)
    independent = len(usable) - sum(len(cluster) - 1 for cluster in clusters)
    if independent < 4:  # one for each split
        raise DataError(
            f"The rows are duplicates: of {len(usable)}, {len(distinct)} differ, {independent} {apart}.",
            where=file,
            remedy="Add rows that differ from each other.",
        )


def _check_labels(usable: Sequence[Example], distinct: Sequence[Example]) -> None:
    by_label: dict[str, list[Example]] = defaultdict(list)
    for row in distinct:
        by_label[row.label or ""].append(row)
    if len(by_label) == 1:
        raise DataError(
            f"Every row has the same target, {next(iter(by_label))!r}, so that there is nothing to learn.",
            where=usable[0].file,
            remedy="Name another target column, or add rows of other classes.",
        )
    spellings: dict[str, str] = {}
    for label in sorted(by_label, key=lambda label: -len(by_label[label])):
        other = spellings.setdefault(normalise(label), label)
        if other != label:
            raise DataError(
                f"The labels {other!r} ({len(by_label[other])} rows) and {label!r} ({len(by_label[label])} rows) "
                "differ only in case or blanks.",
                where=by_label[label][0].place,
                remedy="Use one spelling.",
            )
    for label, found in sorted(by_label.items()):
        if len(found) == 1:
            raise DataError(
                f"The class {label!r} has only one row" + _copied(usable, found[0]) + ".",
                where=found[0].place,
                remedy="Add different rows of this class (at least 5), or delete it.",
            )


def _copied(usable: Sequence[Example], row: Example) -> str:
    copies = sum(other.label == row.label for other in usable) - 1
    return f" and {copies} copies of it" if copies else ""


def check_locked(
    usable: Sequence[R],
    test_rows: Sequence[R],
    locked: Sequence[R],
    count_tokens: Callable[[R], int] | None,
    max_tokens: int,
) -> None:
    """Refuse a test file whose rows cannot all be used as they are: they are the yardstick.

    Args:
        usable: The training file's rows without a problem.
        test_rows: All rows of the test file.
        locked: Of these, the ones without a problem.
        count_tokens: Prompt plus answer in tokens, if it is known.
        max_tokens: How many fit.

    Raises:
        DataError: A row is unusable or too long, or its label never stands in the training file.
    """
    for issue, row in ((row.problem, row) for row in test_rows):
        if issue is not None:
            raise DataError(
                f"A test row cannot be used: {issue.reason}",
                where=place(row.file, issue.row, issue.line, issue.field),
                remedy=issue.remedy,
            )
    known = {row.label for row in usable}
    for row in locked:
        if row.label is not None and row.label not in known:
            near = process.extractOne(row.label, sorted(label for label in known if label), score_cutoff=70)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise DataError(
                f"The test label {row.label!r} never stands in the training file.",
                where=row.place,
                remedy=f"{hint}Add training rows of this class, or take it out of the test file.",
            )
        if count_tokens and (length := count_tokens(row)) > max_tokens:
            raise DataError(
                f"A test row has {length} tokens, where {max_tokens} fit.", where=row.place, remedy="Shorten it."
            )
    if not locked:
        raise DataError("The test file has no usable row.", where=test_rows[0].file if test_rows else "", remedy="")
