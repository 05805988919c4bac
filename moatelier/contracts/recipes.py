"""A Mixture of Agents as a recipe: layers of proposers, and how one answer is made of what they propose.

    name: desk
    layers:
      - proposers:
          - auto: 3                        # the router's three likeliest adapters
          - adapter: support-intent        # an adapter by alias, model id or digest
            samples: 5                     # five answers of the same one
            temperature: 0.8
          - base: true                     # the base without an adapter
          - upstream: big                  # a model of an endpoint named in MOATELIER_UPSTREAMS
            model: some-model
          - recipe: other                  # another recipe
        quorum: 3
        deadline_s: 30
    aggregator:
      kind: select                         # or one, vote, compare, ensemble, synthesis
    gate:                                  # how much of the recipe a request needs
      one_below: 1.2
      few_below: 2.5

Every variant of the method is such a text: Self-MoA (arXiv 2502.00674) is one proposer with `samples`; layered MoA
(arXiv 2406.04692) is several layers; a residual one hands the proposals of earlier layers on (`residual`); early exit
is `exit_at`. `model: "moa/<name>"` asks a recipe.
"""

from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from moatelier.contracts.base import Contract
from moatelier.errors import InvalidRequest

PREFIX = "moa/"
"""`model: "moa/<name>"` in a request."""
MOST_CALLS = 64
"""Calls that one recipe may make for one request, `auto:k` and all layers counted."""
LONGEST_YAML = 64_000
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Exponent = Annotated[float, Field(ge=0, le=10)]
RecipeState = Literal["draft", "live", "disabled"]


class Voice(Contract):
    """Who is asked: exactly one of `adapter`, `base`, `upstream` (with its `model`), and how it shall choose tokens."""

    adapter: str | None = Field(default=None, min_length=1, max_length=256)
    """Alias, model id or digest; a stored recipe holds the digest."""
    base: bool = False
    upstream: str | None = Field(default=None, min_length=1, max_length=64)
    """A name in the setting MOATELIER_UPSTREAMS."""
    model: str | None = Field(default=None, min_length=1, max_length=256)
    """The upstream's own name for the model."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Default: the request's."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1, le=32_768)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which of the ways to say who is asked are used."""
        said = {"adapter": self.adapter, "base": self.base or None, "upstream": self.upstream}
        return tuple(kind for kind, value in said.items() if value is not None)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len(self.kinds) != 1:
            raise ValueError(f"name exactly one of {self._choices}, not {' and '.join(self.kinds) or 'none'}")
        if (self.model is not None) != (self.upstream is not None):
            raise ValueError("`upstream` and `model` go together")
        return self

    @property
    def _choices(self) -> str:
        return "adapter, base, upstream"


class Proposer(Voice):
    """Who proposes in a layer; beside what a voice may be also `auto: k`, or another recipe."""

    auto: int | None = Field(default=None, ge=1, le=16)
    """The router's `k` likeliest adapters, one proposal each."""
    recipe: str | None = Field(default=None, pattern=r"^(moa/)?[a-z0-9][a-z0-9._-]{0,62}(@[0-9a-f]{64})?$")
    """Another recipe's name; a stored recipe holds `<name>@<digest>`."""
    samples: int = Field(default=1, ge=1, le=16)
    """So many proposals of it; more than one need a temperature, or all would be the same."""
    weight: float = Field(default=1.0, gt=0, le=100)
    """How much its word counts, beside the router's probability."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """As of a voice."""
        more = {"auto": self.auto, "recipe": self.recipe}
        return super().kinds + tuple(kind for kind, value in more.items() if value is not None)

    @property
    def _choices(self) -> str:
        return "adapter, auto, base, upstream, recipe"

    @property
    def count(self) -> int:
        """Proposals it makes at most."""
        return self.samples * (self.auto or 1)

    @property
    def other(self) -> tuple[str, str] | None:
        """(name, digest) of the recipe it asks, the digest "" before the recipe is stored; None for no recipe."""
        if self.recipe is None:
            return None
        name, _, digest = self.recipe.removeprefix(PREFIX).partition("@")
        return name, digest

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and not self.temperature and self.recipe is None:
            raise ValueError("`samples` need a `temperature` above 0, or all of them are the same answer")
        return self


class Layer(Contract):
    """Proposers that are asked at once. From the second layer on they are shown the proposals of the layer before."""

    proposers: tuple[Proposer, ...] = Field(min_length=1, max_length=32)
    quorum: int | None = Field(default=None, ge=1)
    """So many proposals are enough to go on, when the others take much longer; default: more than half."""
    deadline_s: float = Field(default=60.0, gt=0, le=3600)
    """After that the layer goes on with what it has; one proposal is enough then."""
    patience: float = Field(default=1.0, ge=0, le=100)
    """Once the quorum is there, the rest have this many times as long again as it took."""
    residual: bool = False
    """Hand the proposals of the layers before on, beside this layer's own."""
    exit_at: float | None = Field(default=None, gt=0, le=1)
    """When this share of the proposals agree, their answer is the answer and nothing more is asked."""

    @property
    def count(self) -> int:
        """Proposals it makes at most."""
        return sum(proposer.count for proposer in self.proposers)


class One(Contract):
    """Route to one: the likeliest proposer alone is asked, the next one when it fails."""

    kind: Literal["one"]


class Select(Contract):
    """The proposal with the highest router probability^prior x mean token probability^likelihood x agreement^agreement.

    The mean token probability is the geometric mean, so that a long answer is not at a disadvantage.
    """

    kind: Literal["select"]
    prior: Exponent = 1.0
    likelihood: Exponent = 1.0
    agreement: Exponent = 1.0


class Vote(Contract):
    """The answer that most say, each counted by router probability^prior x mean token probability^likelihood."""

    kind: Literal["vote"]
    prior: Exponent = 1.0
    likelihood: Exponent = 0.0


class Compare(Contract):
    """Whether the last layer's proposers say the same, but for case and punctuation: a picture's and a recording's."""

    kind: Literal["compare"]
    same: str = Field(default="yes", min_length=1, max_length=200)
    """The answer when all agree."""
    different: str = Field(default="no", min_length=1, max_length=200)
    """The answer when one does not."""


class Ensemble(Contract):
    """The last layer's proposers choose each token together, by the mean of their log probabilities.

    One call to the embedded engine, which all of them must be models of.
    """

    kind: Literal["ensemble"]
    deadline_s: float = Field(default=120.0, gt=0, le=3600)


class Synthesis(Voice):
    """A model reads the proposals and writes the answer."""

    kind: Literal["synthesis"]
    deadline_s: float = Field(default=120.0, gt=0, le=3600)
    reference_chars: int = Field(default=4000, ge=1, le=100_000)
    """So much of each proposal is shown, to it and to later layers."""


Aggregator = Annotated[One | Select | Vote | Compare | Ensemble | Synthesis, Field(discriminator="kind")]


class Gate(Contract):
    """How much of the recipe a request needs, by how sure the router is.

    Measured by the effective number of candidates, exp(entropy) of the router's probabilities: 1 when it is sure, 4
    when four are equally likely.
    """

    one_below: float = Field(default=0.0, ge=0)
    """Below this many the likeliest adapter, or the base, answers alone."""
    few_below: float = Field(default=0.0, ge=0)
    """Below this many the likeliest `few` adapters are one layer before the aggregator."""
    few: int = Field(default=2, ge=2, le=16)


class Recipe(Contract):
    """See the module."""

    name: Name
    summary: str = Field(default="", max_length=500)
    layers: tuple[Layer, ...] = Field(min_length=1, max_length=8)
    aggregator: Aggregator
    gate: Gate | None = None

    @property
    def routed(self) -> bool:
        """Whether it needs the router's probabilities, or gains by them."""
        asks = any(proposer.auto for layer in self.layers for proposer in layer.proposers)
        weighs = self.aggregator.kind == "one" or getattr(self.aggregator, "prior", 0) > 0
        return asks or weighs or self.gate is not None

    @property
    def voices(self) -> tuple[Voice, ...]:
        """Everybody it names, the aggregator included."""
        proposers = [proposer for layer in self.layers for proposer in layer.proposers]
        return (*proposers, self.aggregator) if isinstance(self.aggregator, Synthesis) else tuple(proposers)

    @property
    def others(self) -> tuple[tuple[str, str], ...]:
        """(name, digest) of the recipes it asks."""
        found = [proposer.other for layer in self.layers for proposer in layer.proposers]
        return tuple(other for other in found if other is not None)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for number, layer in enumerate(self.layers):
            if layer.quorum is not None and layer.quorum > layer.count:
                raise ValueError(f"layers[{number}].quorum is {layer.quorum}, of {layer.count} proposals at most")
        if (calls := sum(layer.count for layer in self.layers)) > MOST_CALLS:
            raise ValueError(f"it would make {calls} calls for one request; {MOST_CALLS} are allowed")
        if isinstance(self.aggregator, Compare) and (self.layers[-1].count < 2 or self.gate):
            raise ValueError(
                "`compare` needs at least two proposals in the last layer, and no `gate` that leaves one out"
            )
        if isinstance(self.aggregator, Ensemble):
            _check_ensemble(self.layers[-1])
        if self.layers[0].residual:
            raise ValueError("layers[0].residual: there is no layer before the first")
        return self


def _check_ensemble(layer: Layer) -> None:
    for proposer in layer.proposers:
        if proposer.upstream or proposer.recipe or proposer.samples > 1:
            raise ValueError("an `ensemble` is of adapters and the base, each once: the embedded engine makes it")
        if any(value is not None for value in (proposer.temperature, proposer.top_p, proposer.max_tokens)):
            raise ValueError("the proposers of an `ensemble` choose each token together: none has its own sampling")
    if not 2 <= layer.count <= 16:
        raise ValueError(f"an `ensemble` is of 2 to 16 proposers, not {layer.count}")


def read_recipe(text: str) -> Recipe:
    """The recipe that a YAML text describes.

    Raises:
        InvalidRequest: It is no YAML, or no recipe; `where` names the field.
    """
    remedy = "`docs/guide.md` shows what a recipe may say."
    if len(text) > LONGEST_YAML:
        what = f"The recipe has {len(text)} characters; {LONGEST_YAML} are read at most."
        raise InvalidRequest(what, where="yaml", remedy="Shorten it.")
    try:
        return Recipe.model_validate(_plain(yaml.safe_load(text)))
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f"line {place.line + 1}" if place else "yaml"
        problem = getattr(error, "problem", None) or str(error)
        raise InvalidRequest(f"The recipe is not YAML: {problem}.", where=where, remedy=remedy) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "recipe"
        told = first["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"The recipe cannot be used: {told}.", where=where, remedy=remedy) from error
    except RecursionError as error:
        raise InvalidRequest("The recipe is nested too deeply.", where="yaml", remedy=remedy) from error


def _plain(value: Any) -> Any:
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise InvalidRequest(f"The recipe is {found}, not a mapping.", where="yaml", remedy="Start with `name: ...`.")
    return value
