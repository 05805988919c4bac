"""What a locked set can show, told before anything is trained: the smallest effect that is found with `POWER`.

An effect smaller than that may be there and still be missed; whoever wants to see it needs more rows. Up to some
thousand rows it is exact: the counts that the gate decides by are summed over their binomial distributions.
The claim's level is that of one look of the budget (`evals.statistics.CLAIM_ALPHA`).

Of a gain, the rows on which only one of two is right decide. How many there will be is not known before; here both are
taken to be right independently of each other, which for models that find the same rows hard is the careful side.
"""

from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from evals.statistics import CLAIM_ALPHA, required_correct
from moatelier.errors import DataError

POWER = 0.85
"""The chance with which an effect of the stated size is found."""
_TAILS, _MOST = 1e-7, 400
"""Counts less likely than this, on either side, are left out of sums; of more than so many, every n-th stands for n."""


def detectable_rate(rows: int, target: float, *, alpha: float = CLAIM_ALPHA, power: float = POWER) -> float | None:
    """The smallest true rate whose lower bound reaches `target` with this power; None when even 1.0 does not.

    Raises:
        DataError: There are no rows.
    """
    needed = required_correct(rows, target, alpha)
    if needed is None:
        return None
    return target if needed == 0 else float(special.betaincinv(needed, rows - needed + 1, power))


def detectable_gain(rows: int, other: float, *, alpha: float = CLAIM_ALPHA, power: float = POWER) -> float | None:
    """The smallest true gain on another whose lower bound is above zero with this power.

    Args:
        rows: Locked rows.
        other: The other's true rate.
        alpha: One-sided level of the bound.
        power: Chance with which it shall be found.

    Returns:
        The difference of the rates; None when not even being always right is found with this power.

    Raises:
        DataError: There are no rows.
    """
    return _smallest(rows, other, 0.0, alpha, power)


def detectable_promotion(
    rows: int, target: float, other: float, *, alpha: float = CLAIM_ALPHA, power: float = POWER
) -> float | None:
    """The smallest true gain on another at which the gate promotes with this power: goal reached and gain shown.

    Arguments and errors as for `detectable_gain`; `target` is the goal's.
    """
    return _smallest(rows, other, target, alpha, power)


def _smallest(rows: int, other: float, target: float, alpha: float, power: float) -> float | None:
    room = 1 - other
    if promotion_power(rows, target, other, room, alpha=alpha) < power:
        return None
    found = optimize.brentq(
        lambda gain: promotion_power(rows, target, other, gain, alpha=alpha) - power, 0.0, room, xtol=1e-5
    )
    return float(found)


def promotion_power(rows: int, target: float, other: float, gain: float, *, alpha: float = CLAIM_ALPHA) -> float:
    """The chance that the gate promotes a candidate of a true gain.

    Args:
        rows: Locked rows.
        target: The goal: the lower bound of the candidate's rate must reach it; 0 asks for nothing.
        other: The true rate of whom it is compared with.
        gain: By how much the candidate's true rate is higher.
        alpha: One-sided level of both bounds.

    Raises:
        DataError: There are no rows.
    """
    if rows < 1:
        raise DataError("There are no rows to plan for.", remedy="Give a test file with rows in it.")
    needed = required_correct(rows, target, alpha) if target else 0
    if needed is None:
        return 0.0
    own = other + gain
    wins, losses = own * (1 - other), other * (1 - own)
    both = own * other / max(1 - wins - losses, 1e-300)  # of the rows on which they agree
    differ = wins + losses
    if differ <= 0:
        return 0.0
    counts, every = _likely(rows, differ)
    total = 0.0
    for count, weight in zip(counts, stats.binom.pmf(counts, rows, differ) * every, strict=True):
        least = least_wins(int(count), alpha)
        if not needed:
            total += float(weight) * float(stats.binom.sf(least - 1, count, wins / differ))
            continue
        likely, step = _likely(int(count), wins / differ)
        won = likely[likely >= least]
        chance = stats.binom.pmf(won, count, wins / differ) * step
        total += float(weight) * float((chance * stats.binom.sf(needed - won - 1, rows - count, both)).sum())
    return min(total, 1.0)


def _likely(rows: int, rate: float) -> tuple[NDArray[np.int_], int]:
    """The counts that a binomial gives but for its tails, and every how many-th of them is taken."""
    low, high = (int(stats.binom.ppf(level, rows, min(rate, 1.0))) for level in (_TAILS, 1 - _TAILS))
    every = -(-(high - low + 1) // _MOST)
    return np.arange(low, high + 1, every), every


def least_wins(differing: int, alpha: float = CLAIM_ALPHA) -> int:
    """How many of the rows on which two differ must be won for the gain's lower bound to be above zero.

    The continuity-corrected score test of `evals.statistics.paired_rates` at a difference of zero, where it is
    (wins - losses - 1/2) / sqrt(wins + losses).
    """
    z = float(special.ndtri(1 - alpha))
    wins = int((differing + 0.5 + z * sqrt(differing)) / 2)
    while 2 * wins - differing - 0.5 <= z * sqrt(differing):
        wins += 1
    return wins
