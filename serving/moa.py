"""What a recipe asks for one request: which models, in which layers, with which words.

    plan = planned(mixture, ranked, found)      # what the router says decides how much of the recipe is needed
    plan.layers[0].calls                        # one `Call` a proposal
    plan.messages(conversation, proposals)      # what a later layer is shown

Pure: nothing is asked here. The graph in graphs/inference.py walks through the plan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log
from typing import Any

from moatelier.contracts import Ensemble, Extent, Layer, Proposal, Proposer, Synthesis, Voice
from moatelier.contracts.recipes import Aggregator, One
from moatelier.settings import settings
from serving.mixtures import Mixture
from serving.prompts import Messages, with_references
from serving.router import BASE, Candidate, Ranked
from serving.targets import Target

UNLIKELY = 1e-4
"""No adapter that a recipe names is less likely than this: the router may be wrong."""
TOLD = 8
"""So many of the router's candidates are told."""


@dataclass(frozen=True)
class Call:
    """One question to one model.

    Attributes:
        layer: Counted from 0; the aggregator's is one more than the last.
        place: Within the layer.
        label: What it is called in traces.
        target: What the embedded engine serves; None for what others serve.
        members: Of an ensemble, beside nothing else.
        upstream: (name, model) at a configured endpoint.
        other: A recipe.
        sampling: What the recipe says about choosing tokens; beats the request's.
        sample: Counted from 0 among equal calls.
        prior: Its weight times the router's probability, over the layer's sum.
    """

    layer: int
    place: int
    label: str
    target: Target | None = None
    members: tuple[Target, ...] = ()
    upstream: tuple[str, str] | None = None
    other: Mixture | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0
    prior: float = 1.0

    @property
    def adapter(self) -> str | None:
        """Bundle digest."""
        return self.target.digest if self.target else None

    @property
    def subject(self) -> str | None:
        """What the router's probability is of; None for what it does not know."""
        return (self.target.digest or BASE) if self.target else None


@dataclass(frozen=True)
class Stage:
    """One layer with its calls."""

    layer: Layer
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be asked for one request.

    Attributes:
        extent: How much of the recipe this is.
        stages: In order.
        aggregator: How the answer is made of the last stage's proposals.
        last: The aggregator's own call; None where it makes none.
        ranked: The router's word; None when it was not asked, or could not say.
    """

    extent: Extent
    stages: tuple[Stage, ...]
    aggregator: Aggregator
    last: Call | None
    ranked: Ranked | None

    @property
    def chars(self) -> int:
        """So much of each proposal is shown to later models."""
        return self.aggregator.reference_chars if isinstance(self.aggregator, Synthesis) else 4000

    def messages(self, conversation: Sequence[Mapping[str, Any]], proposals: Sequence[Proposal]) -> Messages:
        """The conversation with the proposals that are handed on."""
        return with_references(conversation, [proposal.text for proposal in proposals], self.chars)

    def handed(self, stage: int, proposals: Sequence[Proposal]) -> list[Proposal]:
        """What a stage hands on: its own good proposals; a residual one, and one without any, earlier ones too."""
        own = [one for one in proposals if one.layer == stage and not one.error]
        if stage and (self.stages[stage].layer.residual or not own):
            return self.handed(stage - 1, proposals) + own
        return own


def effective(ranked: Ranked) -> float:
    """The effective number of candidates: exp of the entropy of the router's probabilities, 1 when it is sure."""
    return exp(-sum(chance * log(chance) for chance in ranked.chances if chance > 0))


def told(ranked: Ranked) -> dict[str, float]:
    """The router's likeliest candidates."""
    return {name: round(chance, 6) for name, chance in list(ranked.probabilities.items())[:TOLD]}


def extent(mixture: Mixture, ranked: Ranked | None) -> Extent:
    """How much of the recipe a request needs; all of it without a gate, or without the router's word."""
    gate = mixture.recipe.gate
    if gate is None or ranked is None:
        return "full"
    count = effective(ranked)
    if count < gate.one_below:
        return "one"
    return "few" if count < gate.few_below and len(ranked.top(gate.few)) > 1 else "full"


def wanted(mixture: Mixture, ranked: Ranked | None) -> list[str]:
    """Digests of the adapters that the router's word brings in, which the mixture does not name."""
    if ranked is None:
        return []
    asked = [proposer.auto for layer in mixture.recipe.layers for proposer in layer.proposers if proposer.auto]
    gate = mixture.recipe.gate
    most = max([*asked, *([gate.few] if gate else [])], default=0)
    if not most:
        return []
    named = sum(len(layer.proposers) for layer in mixture.recipe.layers)  # those are passed over, see `_auto`
    return [candidate.name for candidate in ranked.top(most + named) if candidate.name not in mixture.targets]


def planned(mixture: Mixture, ranked: Ranked | None, found: Mapping[str, Target], of: Extent) -> Plan:
    """What is asked.

    Args:
        mixture: The recipe.
        ranked: The router's word; None when there is none.
        found: The adapters of `wanted`.
        of: How much of the recipe.
    """
    targets = {**mixture.targets, **found}
    recipe = mixture.recipe
    likely = _likely(mixture, targets, ranked, of)
    if not likely or ranked is None:
        stages = tuple(
            Stage(layer, _calls(mixture, targets, number, layer, ranked)) for number, layer in enumerate(recipe.layers)
        )
        return _ended(mixture, Plan("full", stages, recipe.aggregator, None, ranked))
    last = recipe.layers[-1].model_copy(update={"quorum": None, "residual": False})
    calls = [Call(0, place, target.model, target=target) for place, target in enumerate(likely)]
    stages = (Stage(last, _weighed(calls, ranked)),)
    if of == "one":
        return Plan("one", stages, One(kind="one"), None, ranked)
    return _ended(mixture, Plan("few", stages, recipe.aggregator, None, ranked))


def _likely(mixture: Mixture, targets: Mapping[str, Target], ranked: Ranked | None, of: Extent) -> list[Target]:
    """Whom the gate leaves over; none when all of the recipe is wanted, or what is left over is no longer there."""
    if of == "full" or ranked is None or mixture.recipe.gate is None:
        return []
    if of == "one" and ranked.abstains:
        return [mixture.base]
    top = [candidate.name for candidate in ranked.top(1 if of == "one" else mixture.recipe.gate.few)]
    found = [targets[name] for name in top if name in targets]
    return found if len(found) == len(top) else []


def _ended(mixture: Mixture, plan: Plan) -> Plan:
    """The plan with the aggregator's own call."""
    aggregator, number = plan.aggregator, len(plan.stages)
    if isinstance(aggregator, Synthesis):
        return replace(plan, last=_voiced(mixture, mixture.targets, aggregator, number, 0))
    if isinstance(aggregator, Ensemble):
        members = tuple(call.target for call in plan.stages[-1].calls if call.target)
        return replace(plan, last=Call(number, 0, "ensemble", members=members)) if len(members) > 1 else plan
    return plan


def _calls(
    mixture: Mixture, targets: Mapping[str, Target], number: int, layer: Layer, ranked: Ranked | None
) -> tuple[Call, ...]:
    calls: list[Call] = []
    for proposer in layer.proposers:
        for one in _proposed(mixture, targets, number, layer, proposer, ranked):
            for sample in range(proposer.samples):
                calls.append(replace(one, place=len(calls), sample=sample, prior=proposer.weight))
    return _weighed(calls, ranked)


def _proposed(
    mixture: Mixture,
    targets: Mapping[str, Target],
    number: int,
    layer: Layer,
    proposer: Proposer,
    ranked: Ranked | None,
) -> list[Call]:
    """One call for each model that a proposer stands for."""
    if proposer.other:
        name, digest = proposer.other
        other = mixture.others[f"{name}@{digest}"]
        return [Call(number, 0, f"moa/{name}", other=other, sampling=_sampling(proposer))]
    if proposer.auto is None:
        return [_voiced(mixture, targets, proposer, number, 0)]
    likely = [targets[candidate.name] for candidate in _auto(layer, proposer.auto, ranked) if candidate.name in targets]
    return [Call(number, 0, target.model, target=target, sampling=_sampling(proposer)) for target in likely]


def _auto(layer: Layer, count: int, ranked: Ranked | None) -> list[Candidate]:
    """The likeliest adapters that the layer does not name anyway: asked twice, one would speak with two voices."""
    if ranked is None:
        return []
    named = {proposer.adapter for proposer in layer.proposers}
    return [one for one in ranked.top(count + len(named)) if one.name not in named][:count]


def _voiced(mixture: Mixture, targets: Mapping[str, Target], voice: Voice, number: int, place: int) -> Call:
    sampling = _sampling(voice)
    if voice.upstream and voice.model:
        label = f"{voice.upstream}/{voice.model}"
        return Call(number, place, label, upstream=(voice.upstream, voice.model), sampling=sampling)
    target = targets[voice.adapter or settings().base]
    return Call(number, place, target.model, target=target, sampling=sampling)


def _sampling(voice: Voice) -> dict[str, Any]:
    said = {"temperature": voice.temperature, "top_p": voice.top_p, "max_tokens": voice.max_tokens}
    return {name: value for name, value in said.items() if value is not None}


def _weighed(calls: Sequence[Call], ranked: Ranked | None) -> tuple[Call, ...]:
    """The calls with their priors; what the router does not know is as likely as what it knows, on average."""
    known = ranked.probabilities if ranked else {}
    chances = [max(UNLIKELY, known[call.subject]) if call.subject in known else None for call in calls]
    told = [chance for chance in chances if chance is not None]
    usual = sum(told) / len(told) if told else 1.0
    weights = [call.prior * (usual if chance is None else chance) for call, chance in zip(calls, chances, strict=True)]
    total = sum(weights)
    return tuple(replace(call, prior=weight / total) for call, weight in zip(calls, weights, strict=True))
