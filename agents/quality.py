"""What keeps a picture or a recording from being learnt from or tested on, and the words for rows of each kind."""

from collections.abc import Sequence
from dataclasses import dataclass

from moatelier.contracts import AudioFindings, DataFindings, ImageFindings, TaskPlan

Rows = tuple[tuple[int, ...], str]
"""Rows, and why."""


@dataclass(frozen=True)
class Words:
    """How rows of one kind are spoken of.

    Attributes:
        noun: One of them.
        near: What one does that is nearly a locked one.
        torn: What is wrong with one of which two things are told.
        same: What those are that belong together.
        source: Where they lie.
    """

    noun: str
    near: str
    torn: str
    same: str
    source: str = "file"

    def counted(self, count: int) -> str:
        """So many of them."""
        return f"{count} {self.noun}{'s' * (count != 1)}"


TEXT = Words(
    noun="row",
    near="says nearly the same as a locked test row",
    torn="the same input also stands with another target, and nobody can say which is right",
    same="nearly equal rows",
)
IMAGES = Words(
    noun="image",
    near="looks nearly the same as a locked test image",
    torn="the same image also has another label, and nobody can say which is right",
    same="images that look nearly equal",
    source="folder",
)
RECORDINGS = Words(
    noun="recording",
    near="is the same as a locked test recording",
    torn="the same recording also stands with something else, and nobody can say which is right",
    same="equal recordings",
    source="folder",
)


def words(findings: DataFindings) -> Words:
    """How the rows of these findings are spoken of."""
    if isinstance(findings, ImageFindings):
        return IMAGES
    return RECORDINGS if isinstance(findings, AudioFindings) else TEXT


def place(plan: TaskPlan) -> str:
    """Where the labels stand."""
    column = plan.columns.value.told
    return f"column {column}" if column else "the names of the folders"


def unfit(findings: DataFindings) -> Sequence[Rows]:
    """Rows that nobody could learn from or answer."""
    if isinstance(findings, ImageFindings):
        return (findings.blank, "shows one plain colour"), (findings.tiny, "has a side of fewer than 16 pixels")
    if isinstance(findings, AudioFindings):
        return (findings.silent, "is silent"), (findings.short, "is shorter than a tenth of a second")
    return ()


def misleading(findings: DataFindings) -> Sequence[Rows]:
    """Rows that may teach something wrong, and may yet be tested on: life has such ones too."""
    if isinstance(findings, AudioFindings):
        return (
            (findings.mismatched, "whose transcript the base finds far less likely than those of the others"),
            (findings.clipped, "with clipped peaks"),
        )
    return ()


def limit(findings: DataFindings) -> str:
    """What rows that are too long do not fit into."""
    return f"the window of {findings.window_s:g} s" if isinstance(findings, AudioFindings) else "the context"
