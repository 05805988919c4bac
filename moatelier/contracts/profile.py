"""What a file holds: a read-only look, before anything is decided."""

from typing import Literal

from pydantic import Field

from moatelier.contracts.base import Contract, Kind


class RowProblem(Contract):
    """One thing wrong with one row. `row` counts data rows from 1, `line` counts lines of the file from 1."""

    row: int
    field: str
    reason: str
    remedy: str
    line: int = 0


class ColumnProfile(Contract):
    """What a column looks like. Lengths in characters."""

    name: str
    filled: int
    unique: int
    mean_chars: float
    max_chars: int
    top: tuple[tuple[str, int], ...] = ()
    """The commonest values with their counts; only of columns with few distinct values."""


class ColumnGuess(Contract):
    """How sure we are that a column plays a role."""

    role: Literal["input", "target", "messages", "group", "rejected", "thumb"]
    column: str
    confidence: float = Field(ge=0, le=1)
    reason: str = ""


class DataProfile(Contract):
    """A read-only look at a file, before anything is decided."""

    file: str
    name: str
    format: Literal["csv", "jsonl"]
    encoding: str
    rows: int
    columns: tuple[ColumnProfile, ...]
    guesses: tuple[ColumnGuess, ...]
    """Best first within each role."""
    kind: Kind | None
    exact_duplicates: int
    problems: tuple[RowProblem, ...] = ()

    @property
    def modality(self) -> str:
        """What the file is data of."""
        return "text"
