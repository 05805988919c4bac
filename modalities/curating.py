"""What the curator's node asks of a modality: rows from a plan's files, and what is found of them.

A modality's `Curating` is a module. It decides nothing and needs no torch: what only the base can tell of rows comes
from a job, for which `questions` and `doubts` give the spec where there is something to ask, and what the job told is
handed to `find` and `doubt`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from moatelier.contracts import CurationDecision, CurationReport, DataFindings, SplitName, TaskPlan
from modalities.halves import Half

Watch = Callable[[int, int], None]
"""Called with (rows done, rows in all); may raise to stop."""
Told = dict[str, Any]
"""What a job asks of the base, or what it told."""


@dataclass(frozen=True)
class Material:
    """What a plan's files hold.

    Attributes:
        plan: The plan.
        rows: Of the training file.
        test_rows: Of a separate test, which are locked as they are; None where the test is split off.
    """

    plan: TaskPlan
    rows: Sequence[Any]
    test_rows: Sequence[Any] | None


class Curating(Protocol):
    """One modality's part in curation."""

    def read(self, path: Path, name: str, plan: TaskPlan, half: Half, watch: Watch) -> list[Any]:
        """The rows of a file. Raises DataError."""

    def check(self, material: Material) -> None:
        """Refuse rows that cannot make a dataset, before a base is fetched for them. Raises DataError."""

    def needs(self, material: Material) -> tuple[str, ...]:
        """Catalogue ids of the models that these rows are learnt with beside the base, which is there."""

    def probing(self, material: Material) -> Told:
        """What the probe must know of these rows to measure how fast they are learnt from, beside the base."""

    def preflight(self, material: Material) -> float:
        """How many rows are trained on for each row of the file, on average: 1 if nothing is left out or made of it.

        Raises:
            DataError: Nobody should be asked to approve this.
        """

    def questions(self, material: Material) -> Told | None:
        """What the base must tell before anything can be found."""

    def find(self, material: Material, told: Told | None) -> DataFindings:
        """Everything the curator decides on. Raises DataError."""

    def doubts(self, material: Material, findings: Any, decision: CurationDecision) -> Told | None:
        """What the base must tell before labels can be doubted; rows that will be locked are no part of it."""

    def doubt(self, material: Material, findings: Any, decision: CurationDecision, told: Told | None) -> DataFindings:
        """The findings with labels that look wrong."""

    def split(self, material: Material, findings: Any, decision: CurationDecision) -> dict[SplitName, list[Any]]:
        """The splits as they will be stored. Raises DataError."""

    def report(
        self, material: Material, findings: Any, decision: CurationDecision, train: Sequence[Any]
    ) -> CurationReport:
        """What was done to the rows, for the card."""

    def card_fields(self, material: Material, findings: Any) -> dict[str, Any]:
        """Fields of the card that this modality alone has."""
