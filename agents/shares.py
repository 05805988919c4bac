"""Rates with their intervals, and whether two scores differ by more than their noise.

Written out here since agents import nothing of ours but the vocabulary; `evals.statistics` is what claims rest on.
"""

from math import erf, sqrt

from scipy import special

from moatelier.contracts import Interval

Z = 1.959964
"""Of two-sided 95 %."""


def wilson(count: float, of: float) -> tuple[float, float]:
    """The score interval of a rate at 95 % (Wilson 1927, JASA 22:209); (0, 1) without rows."""
    if of <= 0:
        return 0.0, 1.0
    rate, z = count / of, Z
    centre = (rate + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * sqrt(rate * (1 - rate) / of + z * z / (4 * of * of))
    return max(0.0, centre - half), min(1.0, centre + half)


def chance_of(count: int, of: int, share: float) -> float:
    """How likely at least so many are, where each comes with this probability (the binomial's upper tail)."""
    return float(special.bdtrc(count - 1, of, share)) if count > 0 else 1.0


def likely_better(after: Interval, before: Interval) -> float:
    """How likely it is that the first score is truly the higher one, both taken as normal about their points.

    Both are of the same rows, so that their errors go together and the noise is overstated: a gain has to be clear.
    """
    noise = sqrt(_error(after) ** 2 + _error(before) ** 2)
    if noise <= 0:
        return 0.5 + 0.5 * ((after.point > before.point) - (after.point < before.point))
    return 0.5 * (1 + erf((after.point - before.point) / (noise * sqrt(2))))


def _error(interval: Interval) -> float:
    return (interval.high - interval.low) / (2 * Z)
