"""Intervals and comparisons that claims rest on. Every report states them at the level `CLAIM_ALPHA`.

A locked set may be looked at `LOOKS` times, and each look may promote something. So that the chance of promoting on
luck stays below 5 % over *all* looks, each one-sided bound stands at 1 - 0.05 / `LOOKS` (Bonferroni; Holm's method
would need all p-values at once, and looks arrive one by one). Two-sided bounds are the usual 95 % ones.

    Clopper & Pearson 1934, Biometrika 26:404    exact interval of a rate
    Wilson 1927, JASA 22:209                     approximate interval of a rate
    McNemar 1947, Psychometrika 12:153           paired test, exact by the binomial
    Tango 1998, Statistics in Medicine 17:891    score interval of a paired difference of rates
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from evals.bootstrap import Statistic, bootstrap
from evals.clusters import worth
from moatelier.contracts import Interval, PairedComparison
from moatelier.errors import DataError

ALPHA = 0.05
LOOKS = 5
CLAIM_ALPHA = ALPHA / LOOKS
DRAWS = 4000
"""Bootstrap resamples: 40 of them lie below a bound at 1 %."""


def clopper_pearson(right: float, rows: float, *, alpha: float = CLAIM_ALPHA) -> Interval:
    """The exact interval of a rate: its coverage is never below the stated one.

    Args:
        right: Rows that count as successes, 0 to `rows`; need not be a whole number, see `evals.clusters`.
        rows: All rows, at least 1.
        alpha: One-sided level of `claim_low`; `low` and `high` are the two-sided 95 % bounds.

    Raises:
        DataError: There are no rows.
    """
    _need_rows(rows)
    high = 1.0 if right == rows else float(special.betaincinv(right + 1, rows - right, 1 - ALPHA / 2))
    return Interval(
        point=right / rows,
        low=exact_lower(right, rows, ALPHA / 2),
        high=high,
        claim_low=exact_lower(right, rows, alpha),
        method="clopper-pearson",
    )


def exact_lower(right: float, rows: float, alpha: float) -> float:
    """Clopper and Pearson's lower bound at a one-sided level; also between whole numbers."""
    return 0.0 if right == 0 else float(special.betaincinv(right, rows - right + 1, alpha))


def wilson(right: int, rows: int, *, alpha: float = CLAIM_ALPHA) -> Interval:
    """The score interval of a rate, for descriptive rates such as natural stops; arguments as `clopper_pearson`."""
    _need_rows(rows)
    low, high = _wilson_bounds(right, rows, ALPHA / 2)
    claim_low, _ = _wilson_bounds(right, rows, alpha)
    return Interval(point=right / rows, low=low, high=high, claim_low=claim_low, method="wilson")


def _wilson_bounds(right: int, rows: int, alpha: float) -> tuple[float, float]:
    z, rate = float(special.ndtri(1 - alpha)), right / rows
    centre = (rate + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * sqrt(rate * (1 - rate) / rows + z * z / (4 * rows * rows))
    low = 0.0 if right == 0 else max(0.0, centre - half)  # exact ends, which rounding would miss by 1e-17
    return low, 1.0 if right == rows else min(1.0, centre + half)


def required_correct(rows: int, target: float, alpha: float = CLAIM_ALPHA) -> int | None:
    """How many of `rows` must be right for `claim_low` to reach `target`; None when even all would not do."""
    _need_rows(rows)
    if exact_lower(rows, rows, alpha) < target:
        return None
    fewest, enough = -1, rows  # the bound grows with the count, so the smallest sufficient one is bisected
    while enough - fewest > 1:
        middle = (fewest + enough) // 2
        if exact_lower(middle, rows, alpha) >= target:
            enough = middle
        else:
            fewest = middle
    return enough


def bca_interval(
    statistic: Statistic,
    rows: int,
    fallback: Interval,
    *,
    least_margin: float = 0.0,
    alpha: float = CLAIM_ALPHA,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """The bootstrap interval (BCa) of a statistic of independent rows, with a careful bound to claim by.

    `low` and `high` are plain BCa. `claim_low` is the lowest of BCa, the percentile bootstrap and the point less
    `least_margin`: with many labels BCa's bias correction lifts the lower bound of macro-F1 too far (it missed in 3 to
    4 % of simulations where 1 % was stated), and no resampling shows mistakes that these rows do not hold.

    Args:
        statistic: The statistic as a function of row weights [draws, rows].
        rows: The number of rows, at least 1.
        fallback: The interval to give, with its own method's name, when no row's absence changes the statistic (all
            answers right, say): resampling such rows can only repeat them and would claim certainty.
        least_margin: How far below the point `claim_low` lies at least.
        alpha: One-sided level of `claim_low`.
        draws: Number of resamples.
        seed: Fixes the resamples.

    Raises:
        DataError: There are no rows.
    """
    _need_rows(rows)
    drawn = bootstrap(statistic, rows, draws=draws, seed=seed)
    floor = drawn.point - least_margin
    if not drawn.varies:
        return fallback.model_copy(update={"point": drawn.point, "claim_low": min(fallback.claim_low, floor)})
    return Interval(
        point=drawn.point,
        low=drawn.bca(ALPHA / 2),
        high=drawn.bca(1 - ALPHA / 2),
        claim_low=min(drawn.bca(alpha), drawn.percentile(alpha), floor),
        method="bca",
    )


def mcnemar_exact(wins: int, losses: int) -> float:
    """Two-sided exact p-value that two subjects are right equally often, from the rows on which they differ."""
    return min(1.0, 2 * float(special.bdtr(min(wins, losses), wins + losses, 0.5)))


def paired_rates(wins: float, losses: float, rows: float, *, alpha: float = CLAIM_ALPHA) -> Interval:
    """The interval of a difference of two rates on the same rows: Tango's score interval, continuity-corrected.

    The correction of half a row keeps the size of a one-sided test at or below `alpha` for every split of wins and
    losses (enumerated in the tests), which the uncorrected score interval misses by a few per cent of `alpha`.

    Args:
        wins: Rows that only ours got right; need not be a whole number.
        losses: Rows that only the other got right.
        rows: All rows.
        alpha: One-sided level of `claim_low`.
    """
    _need_rows(rows)
    return Interval(
        point=(wins - losses) / rows,
        low=_paired_lower(wins, losses, rows, ALPHA / 2),
        high=-_paired_lower(losses, wins, rows, ALPHA / 2),
        claim_low=_paired_lower(wins, losses, rows, alpha),
        method="tango",
    )


def _paired_lower(wins: float, losses: float, rows: float, alpha: float) -> float:
    z, point = float(special.ndtri(1 - alpha)), (wins - losses) / rows
    if paired_score(wins, losses, rows, -1 + 1e-9) <= z:
        return -1.0
    return float(optimize.brentq(lambda d: paired_score(wins, losses, rows, d) - z, -1 + 1e-9, point, xtol=1e-10))


def paired_score(wins: float, losses: float, rows: float, difference: float) -> float:
    """Tango's standardised distance of the observed difference from `difference`, half a row closer to it."""
    b = -wins - losses + (2 * rows - wins + losses) * difference
    c = -losses * difference * (1 - difference)
    rate = (sqrt(max(b * b - 8 * rows * c, 0.0)) - b) / (4 * rows)  # of losses, most likely under `difference`
    variance = rows * (2 * rate + difference * (1 - difference))
    distance = wins - losses - rows * difference - 0.5
    return distance / sqrt(variance) if variance > 0 else float(np.sign(distance)) * 1e9


def paired_difference(
    other: str,
    ours: NDArray[np.bool_],
    theirs: NDArray[np.bool_],
    *,
    difference: Statistic | None = None,
    groups: Sequence[str | None] = (),
    alpha: float = CLAIM_ALPHA,
    seed: int = 0,
) -> PairedComparison:
    """Compare two subjects on the same rows.

    Args:
        other: Who we are compared with: a bundle digest or `base`.
        ours: Which rows we got right [rows].
        theirs: Which rows the other got right [rows], in the same order.
        difference: The difference of a metric that is no mean over rows, by row weights; bootstrapped. None compares
            the shares of right rows.
        groups: Of each row, where rows hang together; see `evals.clusters`.
        alpha: One-sided level of the interval's `claim_low`.
        seed: Fixes the resamples of the bootstrap.
    """
    wins, losses = int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours))
    share = worth(ours.astype(float) - theirs.astype(float), groups) if len(groups) else 1.0
    interval = paired_rates(share * wins, share * losses, share * len(ours), alpha=alpha)
    if difference is not None:
        margin = interval.point - interval.claim_low
        interval = bca_interval(difference, len(ours), interval, least_margin=margin, alpha=alpha, seed=seed)
    return PairedComparison(
        other=other, difference=interval, p_value=mcnemar_exact(wins, losses), wins=wins, losses=losses
    )


def _need_rows(rows: float) -> None:
    if rows < 1:
        raise DataError("There are no rows to score.", remedy="Give more data, or a test file with rows in it.")
