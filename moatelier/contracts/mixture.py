"""What a recipe was measured to be worth: its table on held-out rows, and the signed decision that rests on it."""

from typing import Literal, Self

from pydantic import Field, model_validator

from moatelier.contracts.base import Contract
from moatelier.contracts.evaluation import Interval, PairedComparison

RoutedBy = Literal["router", "hindsight", "commonest"]
"""Who chose the one answer that a recipe is compared with; see `evals/mixture.py`."""


class MixtureLine(Contract):
    """One subject of the table: how often it was right, and what that cost."""

    subject: str
    right: Interval
    tokens: float
    """Prompt and answer tokens of a row, of all its calls together, mean."""
    seconds: float
    """From the question to the whole answer, mean, beside the other questions that were asked at the time."""
    per_1000_tokens: float
    """Right answers that 1,000 tokens buy."""
    per_second: float
    """Right answers in a second of waiting."""


class MixtureTable(Contract):
    """A recipe beside everything it must be worth more than, on the same rows."""

    rows: int
    groups: int
    """Rows that ask the same thing, or that the data keeps together, count as one draw for the intervals."""
    singles: tuple[MixtureLine, ...]
    """Each proposer's model alone, asked once; the order is the recipe's."""
    mean_single: MixtureLine
    best_single: MixtureLine
    routed: MixtureLine
    routed_by: RoutedBy
    vote: MixtureLine
    recipe: MixtureLine
    oracle: MixtureLine
    """Right where any proposal is."""
    gain: PairedComparison
    """The recipe against routing to one: what the gate decides on."""
    gain_over_mean: Interval
    """The recipe less the mean single model, row by row."""
    share_of_oracle: float | None
    """How far the recipe goes from routing to one towards the oracle; None where there is no way to go."""
    share_from_mean: float | None
    """The same from the mean single model."""
    error_correlation: float | None
    """Mean correlation (phi) of two proposals' errors; None with one, or where nobody ever differs."""
    instead: int = 0
    """Rows on which the recipe's own way could not be gone and it answered another way."""
    failed: dict[str, int] = Field(default_factory=dict)
    """Subject -> rows on which its call failed, which count as wrong."""


class MixtureSpec(Contract):
    """What a job does that measures a recipe on rows that nobody was trained on."""

    project: str
    task: str
    name: str
    recipe: str
    """Digest of the recipe, which fixes its content."""
    datasets: tuple[str, ...]
    """Digests of the DatasetCards whose rows are asked; none where an exam is."""
    exam: str | None = Field(default=None, exclude_if=lambda exam: exam is None)
    """Id of an uploaded file of questions to be asked instead."""
    seen: tuple[str, ...] = ()
    """Digests of all DatasetCards that any of its adapters was made with: what they hold is not asked."""
    split: Literal["select", "test"]
    """`test` rows cost a look and may make the recipe live; `select` rows compare recipes, and nothing follows."""
    rows: int | None = Field(default=None, ge=1)
    """At most so many, evenly taken; default: all."""
    seed: int = 0

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if bool(self.datasets) == bool(self.exam):
            raise ValueError("name datasets or an exam")
        return self


class MixtureLook(Contract):
    """One look at one locked set, written down before it happened."""

    locked: str
    number: int
    allowed: int


class MixtureResult(Contract):
    """What such a job leaves in `result.json`."""

    table: MixtureTable
    looks: tuple[MixtureLook, ...]
    left_out: int
    """Rows of the split that some adapter of the recipe had seen in training."""


class MixtureDecision(Contract):
    """The signed end of a recipe's evaluation: whether it may answer requests, and what that rests on."""

    task: str
    name: str
    recipe: str
    looks: tuple[MixtureLook, ...]
    alpha: float
    table: MixtureTable
    left_out: int
    live: bool
    reason: str


class CandidatesSpec(Contract):
    """What a job does that makes the rows for a recipe's aggregator: dev rows with the proposers' answers to them."""

    project: str
    task: str
    name: str
    recipe: str
    datasets: tuple[str, ...] = Field(min_length=1)
    seen: tuple[str, ...] = ()
    rows: int | None = Field(default=None, ge=1)


class CandidatesResult(Contract):
    """What such a job leaves in `result.json`."""

    artifact: str
    """JSON lines with `messages` and `group`."""
    rows: int
    left_out: int
    """Rows without a single proposal, or seen in training."""
    solvable: float
    """Share of the rows on which some proposal is right."""
