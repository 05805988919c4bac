"""Data that come divided already: which of their parts are learnt from, and which are the test."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from moatelier.contracts import RowProblem
from modalities.listing import open_data, parts_in, tables_in
from modalities.media import Media

Half = Literal["learn", "test", "all"]
TESTING = ("test", "testing", "eval")
"""Parts of these names are the test; all others, such as `val`, are learnt from and divided anew."""
R = TypeVar("R")


def parts_of(path: Path, name: str, media: Media) -> tuple[str, ...]:
    """The folders, or the tables where there are several, that divide what was uploaded; none where nothing does.

    Raises:
        DataError: It cannot be read.
    """
    with open_data(path, name, media, None) as (files, table):
        tables = [] if table is not None else tables_in(files)
        if len(tables) > 1:
            return tuple(PurePosixPath(each).stem for each in tables)
        return () if tables or table is not None else parts_in(files, media)


def halves(parts: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those to learn from and those to be tested on; both are empty where either would be."""
    test = tuple(part for part in parts if part.lower() in TESTING)
    learn = tuple(part for part in parts if part not in test)
    return (learn, test) if learn and test else ((), ())


def half_of(parts: Sequence[str], half: Half) -> tuple[str, ...]:
    """The parts of a half; none where they need not be named."""
    learn, test = halves(parts)
    return {"learn": learn, "test": test, "all": ()}[half]


def read_parts(read: Callable[[str | None], list[R]], parts: Sequence[str]) -> list[R]:
    """The rows of some parts one after another, numbered through.

    Args:
        read: Gives the rows of one part; of everything for None.
        parts: None of them means everything.
    """
    rows: list[R] = []
    for part in parts or (None,):
        rows += [_moved(row, len(rows)) for row in read(part)] if rows else read(part)
    return rows


def _moved(row: Any, by: int) -> Any:
    issue: RowProblem | None = row.problem
    moved = issue.model_copy(update={"row": issue.row + by}) if issue else None
    return replace(row, number=row.number + by, problem=moved)
