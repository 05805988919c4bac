"""What happened to one request to a recipe: every proposal, and how the answer was made of them."""

from typing import Literal

from pydantic import Field

from moatelier.contracts.base import Contract

Extent = Literal["one", "few", "full"]
"""How much of the recipe the gate asked for: one adapter, the likeliest few, all of it."""
Way = Literal["one", "select", "vote", "compare", "ensemble", "synthesis", "exit"]
"""How the answer was made; `exit` when a layer's proposals agreed and the rest was left out."""


class Proposal(Contract):
    """One call to one model: what it said, or why it said nothing."""

    layer: int
    """Counted from 0; the aggregator's own call counts as one layer more."""
    place: int
    """Within the layer, in the recipe's order."""
    model: str
    """Model id of an adapter, catalogue id of the base, `<upstream>/<model>`, `moa/<name>`, or `ensemble`."""
    adapter: str | None = None
    """Bundle digest."""
    text: str = ""
    error: str = ""
    """Code of what went wrong; the text is "" then."""
    reason: str = ""
    """What went wrong, in words."""
    likelihood: float | None = None
    """Mean log probability of the answer's tokens; None when they were not asked for, or are not told."""
    prior: float = 1.0
    """Its weight times the router's probability."""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    milliseconds: float = 0.0
    """From when it was asked."""

    @property
    def tokens(self) -> int:
        """Of prompt and answer together."""
        return self.prompt_tokens + self.completion_tokens


class Trace(Contract):
    """A request to a recipe, whole."""

    name: str
    recipe: str
    """Digest of the recipe."""
    extent: Extent
    effective: float | None = None
    """Effective number of the router's candidates, exp(entropy); None when no router was asked or it was no use."""
    probabilities: dict[str, float] = Field(default_factory=dict)
    """The router's likeliest candidates -> probability; `base` is the mass of no adapter."""
    proposals: tuple[Proposal, ...]
    """Of all layers, those that failed too, by layer and place."""
    spoken: Proposal | None = None
    """The aggregator's own call, where it makes one: synthesis, ensemble."""
    way: Way
    text: str
    finish_reason: str
    answered_by: str
    """The model whose text the answer is."""
    instead: str = ""
    """Why the recipe's own way could not be gone, when it could not."""
    milliseconds: float

    @property
    def calls(self) -> tuple[Proposal, ...]:
        """Every call that was made."""
        return self.proposals + ((self.spoken,) if self.spoken else ())

    @property
    def prompt_tokens(self) -> int:
        """Of all calls."""
        return sum(call.prompt_tokens for call in self.calls)

    @property
    def completion_tokens(self) -> int:
        """Of all calls."""
        return sum(call.completion_tokens for call in self.calls)
