"""What a recipe was measured to be worth: its table on held-out rows, and the signed decision that rests on it."""

from typing import Literal

from pydantic import Field

from moatelier.contracts.base import Contract
from moatelier.contracts.evaluation import Interval, PairedComparison

RoutedBy = Literal["router", "hindsight"]
"""Who chose the one adapter that a recipe is compared with; see `evals/mixture.py`."""


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
    failed: dict[str, int] = Field(default_factory=dict)
    """Subject -> rows on which its call failed, which count as wrong."""
