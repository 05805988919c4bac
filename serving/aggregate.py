"""From several proposals to one answer without another model: confidence selection, weighted vote, agreement.

    select:  prior^a x exp(mean log probability)^b x agreement^c, the highest is taken
    vote:    each answer weighs the sum of prior^a x exp(mean log probability)^b of those who gave it
    compare: whether all say the same

`prior` is the router's probability times the recipe's weight. Ties go to the proposal that comes first in the recipe.
"""

from collections.abc import Sequence
from itertools import combinations
from math import exp, log

from rapidfuzz import fuzz

from moatelier.contracts import Proposal
from moatelier.errors import UpstreamError

LONG = 80
"""Characters from which two texts may agree in part; shorter ones are labels or facts: the same, or not."""
COMPARED = 2000
"""Characters of each text that are compared: the time grows with their square, and all requests wait for it."""
LEAST = 1e-6
"""No factor is smaller: a probability of zero is a rounding, not a proof."""


def form(text: str) -> str:
    """A text as it is compared: case, blanks and a final full stop do not matter."""
    return " ".join(text.casefold().split()).rstrip(".!").rstrip()


def similarity(one: str, other: str) -> float:
    """How far two texts in their `form` say the same, from 0 to 1."""
    if one == other:
        return 1.0
    if min(len(one), len(other)) < LONG:
        return 0.0
    return float(fuzz.token_sort_ratio(one, other)) / 100


def agreements(proposals: Sequence[Proposal]) -> list[float]:
    """The mean similarity of each proposal with all of them, itself included: `[proposals]`, above 0."""
    forms = [form(proposal.text)[:COMPARED] for proposal in proposals]
    sums = [1.0] * len(forms)
    for (i, one), (j, other) in combinations(enumerate(forms), 2):
        alike = similarity(one, other)
        sums[i] += alike
        sums[j] += alike
    return [total / len(forms) for total in sums]


def likelihoods(proposals: Sequence[Proposal]) -> list[float]:
    """Mean log probability of each `[proposals]`; one that was not told counts as the mean of those that were."""
    told = [proposal.likelihood for proposal in proposals if proposal.likelihood is not None]
    usual = sum(told) / len(told) if told else 0.0
    return [usual if proposal.likelihood is None else proposal.likelihood for proposal in proposals]


def select(proposals: Sequence[Proposal], *, prior: float, likelihood: float, agreement: float) -> Proposal:
    """The most trustworthy of at least one proposal.

    Args:
        proposals: Answers to one question.
        prior: Exponent of the router's probability.
        likelihood: Exponent of the mean token probability.
        agreement: Exponent of the mean similarity with the others.
    """
    scores = [
        prior * log(max(proposal.prior, LEAST)) + likelihood * told + agreement * log(max(agreed, LEAST))
        for proposal, told, agreed in zip(proposals, likelihoods(proposals), agreements(proposals), strict=True)
    ]
    return proposals[scores.index(max(scores))]


def vote(proposals: Sequence[Proposal], *, prior: float, likelihood: float) -> Proposal:
    """The first of those that gave the answer with the most weight behind it; exponents as for `select`."""
    weights: dict[str, float] = {}
    for proposal, told in zip(proposals, likelihoods(proposals), strict=True):
        weight = max(proposal.prior, LEAST) ** prior * exp(likelihood * told)
        weights[form(proposal.text)] = weights.get(form(proposal.text), 0.0) + weight
    # Rounded, since the order in which equal weights are added must not decide.
    best = max(weights, key=lambda answer: round(weights[answer], 9))
    return next(proposal for proposal in proposals if form(proposal.text) == best)


def majority(proposals: Sequence[Proposal]) -> tuple[Proposal, float]:
    """The first of those that gave the commonest answer, and their share of the proposals."""
    forms = [form(proposal.text) for proposal in proposals]
    best = max(forms, key=forms.count)
    return proposals[forms.index(best)], forms.count(best) / len(forms)


def compare(proposals: Sequence[Proposal], *, same: str, different: str) -> Proposal:
    """Whether all of at least two proposals say the same in their `form`, as an answer in these words.

    Raises:
        UpstreamError: There is only one, so that nothing can be compared.
    """
    if len(proposals) < 2:
        raise UpstreamError(
            f"Only {proposals[0].model} answered, and there is nothing to compare it with.", remedy="Ask again."
        )
    agree = len({form(proposal.text) for proposal in proposals}) == 1
    last = proposals[-1]
    return Proposal(
        layer=last.layer + 1,
        place=0,
        model="compare",
        text=same if agree else different,
        likelihood=sum(likelihoods(proposals)),
        finish_reason="stop",
    )
