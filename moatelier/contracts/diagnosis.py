"""What a trial fell short by, what was done about it, and what that brought."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from moatelier.contracts.base import Contract, now

Symptom = Literal[
    "data_fault",
    "underfit",
    "overfit",
    "divergence",
    "class_confusion",
    "format_errors",
    "never_stops",
    "forgetting",
    "preference_gap",
    "plateau",
    "healthy",
]
Level = Literal["data", "recipe", "search", "method", "base"]
"""The rungs of the ladder, from what costs least to what costs most."""


class DevRow(Contract):
    """How a dev row was answered: what diagnosis reads of it beside its words."""

    id: str
    truth: str
    answer: str
    """What the answer was taken for: a label, `(no label)`, or of a conversation the answer itself."""
    right: bool
    formed: bool = True
    """The answer has the form that the expected ones have: it is a label, or JSON where they are JSON."""
    meant: bool = False
    """The right content is there, whatever the form."""
    stopped: bool = True
    loss: float | None = None
    """Of the expected answer with its stop token, in nats; None where it was not measured."""
    tokens: int = 0
    """How many that loss is over."""
    sure: float | None = None
    """Probability of the answer that was given."""


class Finding(Contract):
    """One diagnosis with the numbers it rests on."""

    kind: Symptom
    confidence: float = Field(ge=0, le=1)
    evidence: dict[str, float | str]
    text: str
    ids: tuple[str, ...] = Field(default=(), exclude_if=lambda ids: not ids)
    """Where the numbers can be looked up: `report:` and a signed record's key, `job:` and its key, `dev:` and a dev
    row's id, `row:` and a row's number in the uploaded file."""


class Diagnosis(Contract):
    """What the evaluator makes of a trial; findings are ordered, the first is acted upon."""

    trial: int
    findings: tuple[Finding, ...]


class LedgerEntry(Contract):
    """A symptom, what it rests on, what was done about it, and what that brought. Written before the trial is made."""

    task: str
    trial: int
    """Counted from 0: the one that was made because of the symptom of those before."""
    symptom: Symptom
    confidence: float = Field(ge=0, le=1)
    text: str
    """The symptom in words."""
    ids: tuple[str, ...] = ()
    """See `Finding.ids`."""
    level: Level
    action: str
    """The name of a registered action."""
    change: str
    """What it changed, in words."""
    spec: str
    """Digest of the artifact of the TrainSpec."""
    status: Literal["open", "measured", "failed"] = "open"
    measure: str = ""
    """What `before` and `after` are."""
    before: float | None = None
    """Of the best trial until then."""
    after: float | None = None
    credit: float | None = Field(default=None, ge=0, le=1)
    """How likely it is that the action helped, by the noise of both figures; 0 where its trial failed."""
    at: datetime = Field(default_factory=now)

    @property
    def effect(self) -> float | None:
        """What the action brought; None before it is known."""
        return None if self.before is None or self.after is None else self.after - self.before


class Tally(Contract):
    """How an action has fared against a symptom in a project."""

    symptom: Symptom
    action: str
    tries: int
    credit: float
    """The sum of its trials' credits."""
