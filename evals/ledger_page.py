"""What a report shows of its trials' diagnoses, and of what was done about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moatelier.contracts import Diagnosis, Finding, LedgerEntry


@dataclass(frozen=True)
class Line:
    """One trial: what made it, what that brought, and what was found of it."""

    number: int
    cause: LedgerEntry | None
    findings: Sequence[Finding]


def shown(diagnoses: Sequence[Diagnosis], ledger: Sequence[LedgerEntry]) -> dict[str, Any]:
    """What the page needs: `diagnosed`, a line for each trial with a diagnosis or a cause."""
    causes = {entry.trial: entry for entry in ledger}
    found = {diagnosis.trial: diagnosis.findings for diagnosis in diagnoses}
    numbers = sorted({*causes, *found})
    return {"diagnosed": [Line(number + 1, causes.get(number), found.get(number, ())) for number in numbers]}


def record(diagnoses: Sequence[Diagnosis], ledger: Sequence[LedgerEntry]) -> dict[str, Any]:
    """The same for `report.json`, without clock times; nothing where nothing was diagnosed."""
    if not diagnoses and not ledger:
        return {}
    return {
        "diagnoses": [one.model_dump(mode="json") for one in diagnoses],
        "ledger": [entry.model_dump(mode="json", exclude={"at"}) for entry in ledger],
    }
