"""What `auto` rests on: where each adapter's rows lie, how sure a nearness makes us, and how well that works."""

from pydantic import Field

from moatelier.contracts.base import Contract, Kind
from moatelier.contracts.evaluation import Interval, PairedComparison


class RouterProfile(Contract):
    """Where one adapter's training rows lie among embedded texts, pictures or recordings."""

    adapter: str
    """Bundle digest."""
    embedding: str
    """Catalogue id of the embedding model; vectors of different models cannot be compared."""
    embedding_digest: str
    modality: str
    kind: Kind
    labels: tuple[str, ...]
    rows: int
    dims: int
    prototypes: str
    """Base64 of float16, little-endian, `[prototypes, dims]`; each of unit length."""
    counts: tuple[int, ...]
    """Training rows of each prototype."""
    nearness: float
    """Mean cosine of a training row with the nearest prototype, itself left out."""
    spread: float
    """Its standard deviation."""


class HeldOut(Contract):
    """An adapter's dev rows as vectors: scores are calibrated on them, nothing is chosen by them."""

    adapter: str
    vectors: str
    """Base64 of float16, little-endian, `[rows, dims]`."""
    right: tuple[bool, ...]
    """Whether the adapter itself answered the row rightly."""


class Calibration(Contract):
    """What turns cosines into probabilities.

    `softmax(cosine / temperature)` between the adapters, times `sigmoid((best cosine - threshold) / width)`, the
    probability that the text belongs to any of them.
    """

    temperature: float = Field(default=0.05, gt=0)
    threshold: float = 0.45
    width: float = Field(default=0.05, gt=0)
    rows: int = 0
    """Held-out rows it was fitted on."""
    out_rows: int = 0
    """Out-of-domain rows it was fitted on."""


class ProfileSource(Contract):
    """An adapter whose profile is to be made."""

    adapter: str
    dataset: str
    """Digest of its DatasetCard."""
    answers: str | None = None
    """Artifact with its answers on the dev rows; without it each counts as right."""


class KnownProfile(Contract):
    """An adapter that `auto` knows: artifacts of its RouterProfile and HeldOut."""

    adapter: str
    profile: str
    held_out: str


class RoutingSpec(Contract):
    """What a routing job does: make profiles, fit the calibration over all, and write the candidate's card."""

    candidate: str
    build: tuple[ProfileSource, ...] = Field(min_length=1)
    """The candidate, and adapters that were registered while the embedding model was missing."""
    known: tuple[KnownProfile, ...] = ()
    embedding: str
    modality: str = "text"
    seed: int = 0


class BuiltProfile(Contract):
    """A profile that a routing job made, and how well its adapter can be told from the others."""

    adapter: str
    profile: str
    """Artifact of the RouterProfile."""
    held_out: str
    """Artifact of the HeldOut."""
    rows: int
    held_out_rows: int
    twin: str | None = None
    """The adapter whose rows are hardest to tell from its own."""
    told_apart: float = 1.0
    """Share of held-out rows of both that lie nearer to their own prototypes, mean of the two; 0.5 is chance."""


class RouterEvidence(Contract):
    """What the router agent decides on, for one adapter."""

    built: BuiltProfile
    promoted: bool
    kind: Kind = "classification"
    """Of the adapter's task."""
    edits: bool = False
    """Its rows show others' answers to make one of: it is a recipe's aggregator."""
    replaces: str | None = None
    """The adapter whose alias it took."""
    successor: str | None = None
    """The adapter that has since taken its place in `auto`."""


class RouterEntry(Contract):
    """The signed record of an adapter's profile and of whether `auto` may choose it."""

    adapter: str
    profile: str
    """Artifact of the RouterProfile."""
    held_out: str
    """Artifact of the HeldOut."""
    joined: bool
    replaces: str | None
    reason: str


class RouterCard(Contract):
    """How well `auto` would do over these adapters: on their dev rows with the domain hidden, cross-fitted.

    An answer counts as right when the row went to its own adapter and that adapter answers it rightly; a row that went
    elsewhere counts as wrong, so `ours` is a lower bound of what people see.
    """

    adapter: str
    """The adapter whose registration wrote this card."""
    adapters: tuple[str, ...]
    embedding_digest: str | None = None
    """Of the model whose vectors the calibration is for; None on cards from before it was told."""
    rows: int
    out_rows: int
    ours: Interval
    random: Interval
    best_single: Interval
    best_single_adapter: str
    oracle: Interval
    """Each row to its own adapter."""
    against_best_single: PairedComparison
    share_of_oracle: float
    routed_right: Interval
    """Rows that went to their own adapter, whatever it answered."""
    abstained: Interval
    """Rows of these domains that went to the base."""
    calibration_error: float
    """Expected calibration error over ten bins, rows of the domains only."""
    calibration_error_mixed: float
    """The same with the out-of-domain rows, which count as right when they go to the base."""
    auroc: float | None
    """How well the domains' rows are told from the general sentences."""
    auroc_near: float | None
    """The same from rows of an adapter that is taken away: the hard case. None with one adapter."""
    latency_p50_ms: float
    latency_p95_ms: float
    """Of the choice, without the embedding."""
    calibration: Calibration


class RoutingResult(Contract):
    """What a routing job leaves in `result.json`."""

    built: tuple[BuiltProfile, ...]
    """The candidate's first."""
    card: RouterCard
