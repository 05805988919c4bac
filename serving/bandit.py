"""Feedback moves the routes: a Thompson-sampling bandit whose prior is the router's calibrated probability.

A request's *region* is what the router alone would choose for it. In each region each candidate has the tally of good
and bad feedback on its answers there, and its chance to please is Beta-distributed:

    Beta(1 + STRENGTH * p + good, 1 + STRENGTH * (1 - p) + bad)      p: the calibrated probability for this very text

The candidate with the highest mean is chosen, which without feedback is the router's own choice: nobody gets a worse
answer for the sake of an experiment that nobody asked for. A share `explore` of the requests, 0 unless set, and only
in regions that have had feedback, is chosen by Thompson sampling instead (Thompson 1933, Biometrika 25:285).

The probability with which each candidate is chosen is computed, not estimated: the chance that its draw is the highest
is an integral over one variable, done by quadrature, and the choice is drawn from just these probabilities. So the
logged propensity is exact, and inverse-propensity estimates from the log are honest (Li et al. 2011, WSDM, 297).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moatelier.contracts import Feedback
from serving.router import BASE, Ranked

STRENGTH = 8.0
"""How many feedbacks the router's word is worth."""
FLOOR = 0.02
"""Candidates below this probability are not tried, whatever feedback says of them elsewhere in the region."""
MOST = 8
"""So many candidates are weighed, BASE among them."""
GRID = 1024
"""Points of the quadrature."""

Tally = tuple[int, int]
"""(good, bad)"""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """What was chosen for one request.

    Attributes:
        chosen: An adapter's digest, or BASE.
        region: What the router alone would have chosen.
        propensity: The probability with which `chosen` was chosen.
        probabilities: The weighed candidates' calibrated probabilities.
    """

    chosen: str
    region: str
    propensity: float
    probabilities: dict[str, float]


def reward(feedback: Feedback) -> int | None:
    """1 for a good answer, 0 for a bad one, None when the feedback does not say. Without a rating an edit is bad."""
    if feedback.rating is not None:
        return int(feedback.rating > 0)
    return 0 if feedback.edit is not None else None


class Bandit:
    """Chooses among the router's candidates by what people said of earlier answers.

    Args:
        tallies: (region, candidate) -> its tally there.
        explore: The share of requests, in regions with feedback, that are chosen by Thompson sampling: 0 to 1.
    """

    def __init__(self, tallies: Mapping[tuple[str, str], Tally] | None = None, *, explore: float = 0.0) -> None:
        assert 0 <= explore <= 1, "a share"
        self.tallies, self.explore = dict(tallies or {}), explore
        self._regions = {region for region, _ in self.tallies}

    def choose(self, ranked: Ranked, random: np.random.Generator) -> Choice:
        """Choose one candidate; all randomness is `random`'s."""
        region, weighed = ranked.choice, _weighed(ranked)
        chances = self.propensities(region, weighed)
        place = int(random.choice(len(chances), p=chances)) if chances.max() < 1 else int(chances.argmax())
        name, _ = weighed[place]
        return Choice(name, region, float(chances[place]), dict(weighed))

    def propensities(self, region: str, weighed: Sequence[tuple[str, float]]) -> Floats:
        """The probability with which each of the (candidate, probability) is chosen `[candidates]`; they sum to 1."""
        if region not in self._regions:
            return _one_hot(int(np.argmax([chance for _, chance in weighed])), len(weighed))
        good, bad = self._posterior(region, weighed)
        greedy = _one_hot(int(np.argmax(good / (good + bad))), len(weighed))
        if not self.explore:
            return greedy
        mixed = (1 - self.explore) * greedy + self.explore * highest_draw(good, bad)
        return np.asarray(mixed / mixed.sum())

    def _posterior(self, region: str, weighed: Sequence[tuple[str, float]]) -> tuple[Floats, Floats]:
        tallies = np.array([self.tallies.get((region, name), (0, 0)) for name, _ in weighed], dtype=float)
        prior = np.array([chance for _, chance in weighed])
        return 1 + STRENGTH * prior + tallies[:, 0], 1 + STRENGTH * (1 - prior) + tallies[:, 1]


def highest_draw(good: Floats, bad: Floats) -> Floats:
    """The chance that each Beta(good, bad) gives the highest of one draw from each `[candidates]`; they sum to 1.

    P(i is highest) is the integral of its density times the others' distribution functions.
    """
    points = (np.arange(GRID) + 0.5) / GRID
    logs = (good[:, None] - 1) * np.log(points) + (bad[:, None] - 1) * np.log1p(-points)
    density = np.exp(logs - logs.max(axis=1, keepdims=True))
    density /= density.sum(axis=1, keepdims=True)
    below = np.maximum(np.cumsum(density, axis=1) - density / 2, 1e-300)
    product = np.log(below).sum(axis=0)
    chances = (density * np.exp(product - np.log(below))).sum(axis=1)
    return np.asarray(chances / chances.sum())


def _weighed(ranked: Ranked) -> list[tuple[str, float]]:
    pairs = list(zip(ranked.names[:MOST], ranked.chances, strict=False))
    if BASE not in ranked.names[:MOST]:
        pairs[-1] = (BASE, ranked.probabilities[BASE])
    return [(name, chance) for place, (name, chance) in enumerate(pairs) if not place or chance >= FLOOR]


def _one_hot(place: int, count: int) -> Floats:
    chances: Floats = np.zeros(count)
    chances[place] = 1.0
    return chances
