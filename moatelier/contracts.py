"""The typed records that pass between the parts. Frozen, JSON-able, unknown fields refused.

Order follows the main flow: profile -> plan -> dataset -> training -> evaluation -> gate -> serving -> feedback.
Ids of files and artifacts are SHA-256 digests (64 hex digits) unless a field says otherwise.
"""

from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from moatelier.ids import digest_json

T = TypeVar("T")
Kind = Literal["classification", "chat"]
MetricName = Literal["accuracy", "macro_f1", "exact_match"]
SplitName = Literal["train", "dev", "select", "test"]


def now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


class Contract(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def digest(self) -> str:
        """SHA-256 of the record's canonical JSON: equal records have equal digests."""
        return digest_json(self.model_dump(mode="json"))


# ---------------------------------------------------------------- profile: what a file holds


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

    role: Literal["input", "target", "messages", "group"]
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


# ---------------------------------------------------------------- plan: what will be done


class Sourced(Contract, Generic[T]):
    """A plan field with where its value comes from."""

    value: T
    source: Literal["user", "inferred", "default"]
    confidence: float = Field(ge=0, le=1)
    reason: str


class Columns(Contract):
    """Which column plays which role. Classification needs `input` and `target`; chat `messages`, or both."""

    input: str | None = None
    target: str | None = None
    messages: str | None = None
    group: str | None = None


class Goal(Contract):
    """What counts as success: the one-sided 95 % lower bound of `metric` on locked rows is at or above `target`."""

    metric: MetricName
    target: float = Field(ge=0, le=1)


class Budget(Contract):
    """Hard limits of a task: training time over all trials, and the number of trials."""

    seconds: float = Field(gt=0)
    trials: int = Field(ge=1, le=20)


class TaskPlan(Contract):
    """What a task will do. The version that a person approves is `digest`."""

    name: str
    """A slug; becomes the adapter's suffix and the task's alias."""
    train_file: str
    """Id of the uploaded file (`file-...`)."""
    test_file: str | None = None
    modality: Sourced[str]
    kind: Sourced[Kind]
    columns: Sourced[Columns]
    goal: Sourced[Goal]
    budget: Sourced[Budget]
    method: Sourced[str]
    base: Sourced[str]
    """A catalogue id."""
    private: Sourced[Literal["redact", "reject", "allow"]]
    """What happens to rows with private data."""
    too_long: Sourced[Literal["refuse", "drop", "truncate"]]
    """What happens to rows whose trained tokens do not fit into the context."""
    seed: int = 0
    notes: tuple[str, ...] = ()
    """What a person should know before approving, such as a goal that the locked rows cannot show."""


class Question(Contract):
    """Something the planner will not guess."""

    field: str
    text: str
    choices: tuple[str, ...] = ()


# ---------------------------------------------------------------- dataset: what is trained and tested on


class PrivateFinding(Contract):
    """A private datum that was found, without the datum."""

    row: int
    field: str
    kind: str
    action: Literal["redacted", "rejected", "allowed"]


class DataFindings(Contract):
    """What modalities/*/data.py reports of rows that were read: facts, no decisions. Rows count from 1."""

    rows: int
    labels: dict[str, int]
    exact_duplicates: tuple[int, ...] = ()
    """Rows that repeat an earlier row, input and target alike; the first of each is not listed."""
    conflicting: tuple[int, ...] = ()
    """Rows whose input also stands with another target."""
    clusters: tuple[tuple[int, ...], ...] = ()
    """Near-duplicate clusters of two or more rows (Jaccard >= 0.8 on word 3-grams)."""
    near_test: tuple[int, ...] = ()
    """Rows that nearly repeat a row of the separate test file."""
    private: tuple["PrivateFinding", ...] = ()
    suspicious: tuple["Suspicion", ...] = ()
    too_long: tuple[int, ...] = ()
    problems: tuple[RowProblem, ...] = ()
    """Rows that cannot be used at all: empty input, missing target, broken messages."""


class Suspicion(Contract):
    """A label that a cross-validated linear model finds unlikely. `loss` is in nats, out of fold."""

    row: int
    label: str
    likelier: str
    probability: float
    """Of the likelier label."""
    loss: float


class CurationDecision(Contract):
    """What the curator decided. `drop` says why for each row; `left_out_of_train` rows may stay in other splits."""

    drop: dict[int, str]
    left_out_of_train: tuple[int, ...] = ()
    redact: tuple[int, ...] = ()
    fractions: dict[SplitName, float]
    reasons: tuple[str, ...]


class CurationReport(Contract):
    """What the curator did to the rows and why."""

    rows_read: int
    rows_kept: int
    exact_duplicates: int
    near_duplicate_clusters: int
    near_duplicates_of_test: int
    """Rows taken out of train, dev and select because a locked row says nearly the same."""
    conflicting_labels: int
    private: tuple[PrivateFinding, ...] = ()
    suspicious: tuple[Suspicion, ...] = ()
    """Worst first."""
    dropped: dict[int, str] = Field(default_factory=dict)
    """Row -> why it is in no split."""
    reasons: tuple[str, ...] = ()
    token_lengths: dict[str, float] = Field(default_factory=dict)
    """Prompt plus answer in tokens: mean, p50, p95, max."""


class SplitInfo(Contract):
    """One split: how many rows, the artifact with its rows (absent for test: only the vault knows), labels."""

    rows: int
    artifact: str | None
    labels: dict[str, int] = Field(default_factory=dict)


class DatasetCard(Contract):
    """A curated dataset; its `digest` names it. Rows are JSON lines, see modalities/text/data.py."""

    name: str
    source: str
    """SHA-256 of the uploaded file."""
    test_source: str | None
    licence: str
    modality: str
    kind: Kind
    columns: Columns
    labels: tuple[str, ...]
    splits: dict[SplitName, SplitInfo]
    locked: str
    """Content hash of the locked test rows; looks are counted by it."""
    report: CurationReport


# ---------------------------------------------------------------- training: one adapter


class TrainSpec(Contract):
    """Everything that determines a training run. The job's key is derived from `digest`."""

    method: str
    base: str
    dataset: str
    """Digest of the DatasetCard."""
    suffix: str
    rank: int = Field(default=16, ge=1)
    alpha: float = 32.0
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target: Literal["all-linear"] = "all-linear"
    layers: Literal["top_third", "all"] = "top_third"
    learning_rate: float = 1e-3
    epochs: float = Field(default=3.0, gt=0)
    batch_rows: int = Field(default=16, ge=1)
    warmup_ratio: float = 0.05
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_tokens: int = 1024
    """Longest row, prompt and answer together, in tokens."""
    checkpoint_every: int = Field(default=25, ge=1)
    """In optimiser steps."""
    max_seconds: float | None = None
    """Stop in time and seal what is there."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    seed: int = 0


class AdapterManifest(Contract):
    """`manifest.json` of a sealed bundle: what training fixes, no clock times. Its digest names the bundle."""

    base: str
    base_digest: str
    modality: str
    kind: Kind
    suffix: str
    system: str
    """The system message every prompt of this adapter starts with."""
    template_digest: str
    stop_ids: tuple[int, ...]
    labels: tuple[str, ...]
    first_layer: int
    """The first layer that the adapter changes; below it everything is the frozen base."""
    dataset: str
    licence: str
    spec: TrainSpec
    versions: dict[str, str]
    files: dict[str, str]
    """File name -> SHA-256, for every other file in the bundle."""


class TrainResult(Contract):
    """What a training job leaves in `result.json`."""

    bundle: str
    """Digest of the manifest; the bundle lies in `<home>/adapters/<digest>`."""
    steps: int
    epochs: float
    seconds: float
    """Time spent training, over all resumptions, without loading."""
    train_loss: float
    """Mean over the last tenth of the steps, per trained token."""
    dev_loss: float | None
    curve: tuple[tuple[int, float], ...]
    """(step, training loss)."""
    dev_curve: tuple[tuple[int, float], ...] = ()
    tokens: int = 0
    peak_bytes: int = 0
    stopped: Literal["finished", "out_of_time"] = "finished"
    precision: str = "fp32"


# ---------------------------------------------------------------- evaluation and gate


class Interval(Contract):
    """A point with two-sided 95 % bounds, and the one-sided lower bound claims rest on."""

    point: float
    low: float
    high: float
    claim_low: float
    method: str
    """`clopper-pearson`, `bca` or `wilson`."""


class EvalReport(Contract):
    """How one subject did on one split. On select `predictions` is None: scores only."""

    subject: str
    """Bundle digest, or `base`."""
    split: SplitName
    rows: int
    kind: Kind
    metrics: dict[str, Interval]
    per_class: dict[str, dict[str, float]] = Field(default_factory=dict)
    """label -> precision, recall, f1, support."""
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
    """What the gate job does: its only input besides the vault."""

    project: str
    task: str
    dataset: str
    base: str
    candidate: str
    champion: str | None
    goal: Goal
    seed: int = 0


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
    against_base: PairedComparison
    against_champion: PairedComparison | None
    reached: bool
    promoted: bool
    reason: str


# ---------------------------------------------------------------- serving, feedback, events


class RouteDecision(Contract):
    """Which model answered a request and why."""

    requested: str
    chosen: str
    """Bundle digest, or a catalogue id for a base."""
    reason: Literal["exact", "alias", "base"]
    completion: str = ""


class Feedback(Contract):
    """What a person thought of an answer, joined by completion id."""

    completion: str
    rating: Literal[-1, 1] | None = None
    edit: str | None = None
    label: str | None = None
    comment: str | None = None


class Event(Contract):
    """A line of the append-only log, unique by (job, kind, step)."""

    project: str
    stream: str
    """The thread whose readers see it."""
    task: str | None = None
    job: str
    """What caused it: a job key, or `<thread>/<node>/<attempt>` for a node's own."""
    kind: str
    """`plan`, `question`, `decision`, `progress`, `metrics`, `message`, `status`, `error`, ..."""
    step: int = 0
    body: dict[str, Any]
    id: int | None = None
    at: datetime = Field(default_factory=now)
