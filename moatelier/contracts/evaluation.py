"""Scores, diagnosis and the gate."""

from typing import Literal

from pydantic import Field

from moatelier.contracts.base import Contract, Kind, SplitName
from moatelier.contracts.plan import Goal
from moatelier.contracts.suites import Condition, Conditions


class Interval(Contract):
    """A point with two-sided 95 % bounds, and the one-sided lower bound claims rest on."""

    point: float
    low: float
    high: float
    claim_low: float
    method: str
    """`clopper-pearson`, `bca`, `wilson`, `tango`, or `efron-stein` where rows stand in each other's way."""


class EvalReport(Contract):
    """How one subject did on one split. On select `predictions` is None: scores only."""

    subject: str
    """Bundle digest, or `base`."""
    split: SplitName
    rows: int
    kind: Kind
    metrics: dict[str, Interval]
    per_class: dict[str, dict[str, float]] = Field(default_factory=dict)
    """label -> precision, recall, f1, support.

    Of transcripts: speaker -> word_accuracy, exact_match, wer, cer, support.
    """
    confusion: tuple[tuple[str, str, int], ...] = ()
    """(true, predicted, count), zero cells left out; an answer that is no label is predicted as `(no label)`."""
    natural_stop_rate: float = 1.0
    format_error_rate: float = 0.0
    loss: float | None = None
    predictions: str | None = None
    """Artifact of JSON lines {id, truth, answer, label, stopped}."""
    seconds: float = 0.0


class EvalSpec(Contract):
    """What an evaluation job does: one subject on dev or select rows of one dataset."""

    dataset: str
    base: str
    bundle: str | None
    """Bundle digest; None evaluates the base."""
    split: Literal["dev", "select"]
    seed: int = 0


class GateSpec(Contract):
    """What the gate job does."""

    project: str
    task: str
    dataset: str
    base: str
    candidate: str
    champion: str | None
    goal: Goal
    seed: int = 0
    conditions: Conditions | None = Field(default=None, exclude_if=lambda conditions: conditions is None)
    """Beside goal and gain; None demands nothing more."""


class Finding(Contract):
    """One diagnosis with the numbers it rests on."""

    kind: Literal["data_fault", "underfit", "overfit", "never_stops", "plateau", "healthy"]
    confidence: float = Field(ge=0, le=1)
    evidence: dict[str, float | str]
    text: str


class Diagnosis(Contract):
    """What the evaluator makes of a trial; findings are ordered, the first is acted upon."""

    trial: int
    findings: tuple[Finding, ...]


class PairedComparison(Contract):
    """Candidate against another subject on the same rows; `difference` is candidate minus other."""

    other: str
    difference: Interval
    p_value: float
    """Exact McNemar, two-sided."""
    wins: int
    losses: int


class GateDecision(Contract):
    """The signed end of a task: one look at the locked rows, written down before it happened."""

    task: str
    candidate: str
    champion: str | None
    locked: str
    look: int
    looks_allowed: int
    alpha: float
    goal: Goal
    candidate_report: EvalReport
    base_report: EvalReport
    champion_report: EvalReport | None
    blind_report: EvalReport | None = Field(default=None, exclude_if=lambda report: report is None)
    """Of questions about pictures: the candidate that was shown none."""
    against_base: PairedComparison
    against_champion: PairedComparison | None
    conditions: tuple[Condition, ...] = Field(default=(), exclude_if=lambda conditions: not conditions)
    """What was demanded beside goal and gain, as it was found."""
    evidence: str | None = Field(default=None, exclude_if=lambda evidence: evidence is None)
    """Digest of what the decision was made of; it lies in the vault, and the decision can be made again from it."""
    reached: bool
    promoted: bool
    reason: str
