"""What is known of audio data: a read-only look, which column plays which role, findings."""

from typing import Literal

from pydantic import Field

from moatelier.contracts.base import Contract
from moatelier.contracts.columns import AudioColumns
from moatelier.contracts.dataset import DataFindings
from moatelier.contracts.profile import RowProblem

AudioGoal = Literal["transcript", "label"]
"""What is to be told of a recording: what is said in it, or what kind of recording it is."""


class AudioProfile(Contract):
    """A read-only look at recordings, before anything is decided."""

    file: str
    name: str
    format: Literal["folder", "zip", "table"]
    recordings: int
    parts: tuple[str, ...]
    """Folders such as `train` and `test` that divide the recordings already."""
    labels: dict[str, int]
    """Empty where nothing names a class."""
    transcripts: int
    """How many rows say what is said."""
    speakers: dict[str, int]
    tables: tuple[str, ...]
    """Tables within, such as `index.csv`."""
    columns: AudioColumns | None
    """What the columns of the table seem to be."""
    headers: tuple[str, ...] = ()
    """All columns of the table."""
    looked_at: int
    """Recordings that were decoded for the fields below, spread over all."""
    seconds: dict[str, float]
    """Lengths: min, p50, p95, max."""
    rates: dict[int, int]
    """Samples a second -> recordings."""
    problems: tuple[RowProblem, ...] = ()

    @property
    def modality(self) -> str:
        """What the file is data of."""
        return "audio"

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.recordings


class AudioFindings(DataFindings):
    """What is found of recordings, beside what is found of all rows. A broken one is among the `problems`.

    `exact_duplicates`, `conflicting`, `clusters` and `near_test` are of recordings with the same samples; `too_long`
    are those that do not fit into the window, or whose transcript is longer than anyone speaks in it.
    """

    window_s: float
    """The window that fits the data: nearly all recordings are no longer, without the silence at their ends."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """Lengths: total, min, p50, p95, max."""
    silent: tuple[int, ...] = ()
    """Rows in which nothing is louder than silence."""
    clipped: tuple[int, ...] = ()
    """Rows of which more than a thousandth of the samples is at full scale."""
    short: tuple[int, ...] = ()
    """Rows that are shorter than a tenth of a second."""
    mismatched: tuple[int, ...] = ()
    """Rows whose transcript the base finds far less likely than those of the others."""
    rates: dict[int, int] = Field(default_factory=dict)
    """Samples a second -> rows."""
    speakers: dict[str, int] = Field(default_factory=dict)
    licences: dict[str, int] = Field(default_factory=dict)
    """Of rows that name one."""
