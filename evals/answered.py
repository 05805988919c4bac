"""Rows with the answers to them, and what scoring makes of them."""

from dataclasses import dataclass, field

from moatelier.contracts import Interval


@dataclass(frozen=True)
class Found:
    """Where a picture and its caption stand when each is sought by the other, see `evals.matching`.

    Attributes:
        ranks: How many wrong captions stand before the right one, and how many wrong pictures.
        sways: For each k that is measured, how many more of the other rows would be found without this one, both ways.
        picture: What it shows, as a digest: several rows may have one picture.
    """

    ranks: tuple[int, int]
    sways: tuple[tuple[float, float], ...] = ()
    picture: str = ""


@dataclass(frozen=True)
class Answered:
    """One row with the answer to it."""

    truth: str
    answer: str
    stopped: bool = True
    """The model ended the answer itself; it was not cut at the token limit."""
    group: str | None = None
    """Who speaks in a recording."""
    found: Found | None = None
    """Where a picture is sought by its caption; `answer` is then the caption that it is most like."""


@dataclass(frozen=True)
class Scores:
    """All scores of one subject on one set of rows; the fields are those of an `EvalReport`."""

    metrics: dict[str, Interval]
    natural_stop_rate: float
    format_error_rate: float = 0.0
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    confusion: tuple[tuple[str, str, int], ...] = ()
