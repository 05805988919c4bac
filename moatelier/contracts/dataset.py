"""What is trained and tested on: findings, decisions, the card."""

from typing import Literal

from pydantic import Field

from moatelier.contracts.base import Contract, Kind, SplitName
from moatelier.contracts.columns import AnyColumns
from moatelier.contracts.profile import RowProblem


class PrivateFinding(Contract):
    """A private datum that was found, without the datum."""

    row: int
    field: str
    kind: str
    action: Literal["redacted", "rejected", "allowed"]


class Suspicion(Contract):
    """A label that a cross-validated linear model finds unlikely. `loss` is in nats, out of fold."""

    row: int
    label: str
    likelier: str
    probability: float
    """Of the likelier label."""
    loss: float


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
    private: tuple[PrivateFinding, ...] = ()
    suspicious: tuple[Suspicion, ...] = ()
    too_long: tuple[int, ...] = ()
    problems: tuple[RowProblem, ...] = ()
    """Rows that cannot be used at all: empty input, missing target, broken messages."""


class CurationDecision(Contract):
    """What the curator decided. `drop` says why for each row; `left_out_of_train` rows may stay in other splits."""

    drop: dict[int, str]
    left_out_of_train: tuple[int, ...] = ()
    redact: tuple[int, ...] = ()
    shorten: tuple[int, ...] = ()
    """Rows whose questions are cut so that they fit."""
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
    measures: dict[str, float] = Field(default_factory=dict, exclude_if=lambda measures: not measures)
    """Images' shorter sides in pixels, or recordings' lengths in seconds: min, p50, p95, max."""


class SplitInfo(Contract):
    """One split: how many rows, the artifact with its rows (absent for test: only the vault knows), labels."""

    rows: int
    artifact: str | None
    labels: dict[str, int] = Field(default_factory=dict)


class DatasetCard(Contract):
    """A curated dataset; its `digest` names it. Rows are JSON lines, see the data module of its modality."""

    name: str
    source: str
    """SHA-256 of the uploaded file."""
    test_source: str | None
    licence: str
    modality: str
    kind: Kind
    columns: AnyColumns
    labels: tuple[str, ...]
    splits: dict[SplitName, SplitInfo]
    locked: str
    """Content hash of the locked test rows; looks are counted by it."""
    window_s: float | None = Field(default=None, exclude_if=lambda window: window is None)
    """Seconds that a model of recordings shall hear at once; None for other data."""
    size: int | None = Field(default=None, exclude_if=lambda size: size is None)
    """Pixels of either side that images shall be brought to; None is what the base was trained with."""
    vision: str | None = Field(default=None, exclude_if=lambda vision: vision is None)
    """Catalogue id of the model that sees the pictures that are asked about."""
    report: CurationReport
