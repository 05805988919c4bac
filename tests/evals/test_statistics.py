"""Intervals against hand calculations, published values, other people's code, and their own promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from evals.bootstrap import Floats, bootstrap
from evals.statistics import (
    CLAIM_ALPHA,
    bca_interval,
    clopper_pearson,
    mcnemar_exact,
    paired_difference,
    paired_rates,
    paired_score,
    required_correct,
    wilson,
)
from moatelier.errors import DataError

# Newcombe 1998, Statistics in Medicine 17:857, table I: right, rows, score interval, exact interval.
NEWCOMBE = [
    (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
    (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
    (0, 20, (0.0000, 0.1611), (0.0000, 0.1684)),
    (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
]

# Efron & Tibshirani 1993, An Introduction to the Bootstrap, table 14.1: the spatial test data.
SPATIAL = np.array(
    [48, 36, 20, 29, 42, 42, 20, 42, 22, 41, 45, 14, 6, 0, 33, 28, 34, 4, 32, 24, 47, 41, 24, 26, 30, 41], dtype=float
)


@pytest.mark.parametrize(("right", "rows", "score", "exact"), NEWCOMBE)
def test_rates_have_the_published_intervals(
    right: int, rows: int, score: tuple[float, float], exact: tuple[float, float]
) -> None:
    by_score, by_binomial = wilson(right, rows), clopper_pearson(right, rows)
    assert (by_score.low, by_score.high) == pytest.approx(score, abs=5e-5)
    assert (by_binomial.low, by_binomial.high) == pytest.approx(exact, abs=5e-5)
    assert by_binomial.method == "clopper-pearson" and by_score.method == "wilson"


def test_bounds_by_hand() -> None:
    # All n right: the bound is the p at which that has probability alpha, p ** n = alpha.
    assert clopper_pearson(50, 50, alpha=0.05).claim_low == pytest.approx(0.05 ** (1 / 50))
    assert clopper_pearson(0, 7).low == 0 and clopper_pearson(0, 7).claim_low == 0
    # The issue's own figure: 95 % of 180 rows has a one-sided 95 % bound near 91 %.
    assert clopper_pearson(171, 180, alpha=0.05).claim_low == pytest.approx(0.914, abs=5e-4)


@given(st.integers(1, 400).flatmap(lambda rows: st.tuples(st.integers(0, rows), st.just(rows))))
def test_rates_agree_with_statsmodels(counts: tuple[int, int]) -> None:
    right, rows = counts
    ours, theirs = clopper_pearson(right, rows), proportion_confint(right, rows, 0.05, "beta")
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=1e-9)
    assert wilson(right, rows).low == pytest.approx(proportion_confint(right, rows, 0.05, "wilson")[0], abs=1e-9)
    assert ours.claim_low <= ours.low <= ours.point <= ours.high


@given(st.integers(1, 600), st.floats(0.01, 0.999))
def test_a_claim_at_the_boundary_is_wrong_at_most_as_often_as_it_says(rows: int, target: float) -> None:
    needed = required_correct(rows, target)
    chance = 0.0 if needed is None else float(stats.binom.sf(needed - 1, rows, target))
    assert chance <= CLAIM_ALPHA * (1 + 1e-9)


@given(st.integers(1, 600), st.floats(0.01, 0.999))
def test_required_correct_is_the_smallest_count_that_suffices(rows: int, target: float) -> None:
    needed = required_correct(rows, target)
    if needed is None:
        assert clopper_pearson(rows, rows).claim_low < target
    else:
        assert clopper_pearson(needed, rows).claim_low >= target
        assert needed == 0 or clopper_pearson(needed - 1, rows).claim_low < target


def test_required_correct_by_hand() -> None:
    # 0.95 ** 89 = 0.0104 and 0.95 ** 90 = 0.0099: at 1 % it takes 90 rows, all right, to show 95 %.
    assert required_correct(89, 0.95, 0.01) is None
    assert required_correct(90, 0.95, 0.01) == 90


def variance(weights: Floats) -> Floats:
    """Plug-in variance of the spatial data, by weights."""
    shares = weights / weights.sum(axis=1, keepdims=True)
    mean = shares @ SPATIAL
    result: Floats = shares @ SPATIAL**2 - mean**2
    return result


def test_bca_gives_the_published_interval() -> None:
    # Table 14.2: theta = 171.5; BCa 90 %: (115.8, 259.6); percentile 90 %: (100.8, 233.9).
    drawn = bootstrap(variance, len(SPATIAL), draws=40_000, seed=0)
    assert drawn.point == pytest.approx(171.5, abs=0.05)
    assert (drawn.bca(0.05), drawn.bca(0.95)) == pytest.approx((115.8, 259.6), abs=4)
    assert (drawn.percentile(0.05), drawn.percentile(0.95)) == pytest.approx((100.8, 233.9), abs=3)


def test_the_bound_to_claim_by_is_the_most_careful_one() -> None:
    drawn = bootstrap(variance, len(SPATIAL), draws=4000, seed=0)
    interval = bca_interval(variance, len(SPATIAL), clopper_pearson(1, 26))
    assert drawn.percentile(CLAIM_ALPHA) < drawn.bca(CLAIM_ALPHA)
    assert interval.claim_low == drawn.percentile(CLAIM_ALPHA)
    assert (interval.low, interval.high) == (drawn.bca(0.025), drawn.bca(0.975))
    wide = bca_interval(variance, len(SPATIAL), clopper_pearson(1, 26), least_margin=150.0)
    assert wide.claim_low == pytest.approx(interval.point - 150) and wide.low == interval.low


def test_bca_agrees_with_scipy() -> None:
    random = np.random.default_rng(3)
    data = random.exponential(size=60)

    def mean(weights: Floats) -> Floats:
        result: Floats = weights @ data / weights.sum(axis=1)
        return result

    ours = bca_interval(mean, 60, clopper_pearson(1, 60), draws=20_000)
    theirs = stats.bootstrap((data,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(5))
    bounds = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((bounds.low, bounds.high), rel=0.015)


def test_bca_of_rows_that_do_not_vary_falls_back_and_says_so() -> None:
    def constant(weights: Floats) -> Floats:
        return np.ones(len(weights))

    interval = bca_interval(constant, 30, clopper_pearson(30, 30))
    assert interval == clopper_pearson(30, 30) and interval.method == "clopper-pearson"


def test_bca_is_the_same_for_the_same_seed() -> None:
    first, again, other = (bca_interval(variance, 26, clopper_pearson(1, 26), seed=seed) for seed in (1, 1, 2))
    assert first == again and first != other


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 5), (12, 3), (7, 7), (40, 18)])
def test_mcnemar_agrees_with_statsmodels(wins: int, losses: int) -> None:
    theirs = 1.0 if wins + losses == 0 else mcnemar([[50, wins], [losses, 20]], exact=True).pvalue
    assert mcnemar_exact(wins, losses) == pytest.approx(theirs)


def test_mcnemar_by_hand() -> None:
    assert mcnemar_exact(5, 0) == pytest.approx(2 / 2**5)
    assert mcnemar_exact(4, 1) == pytest.approx(2 * (5 + 1) / 2**5)


@settings(max_examples=50)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300))
def test_paired_interval_inverts_its_test_and_mirrors(wins: int, losses: int, same: int) -> None:
    rows = wins + losses + same
    if rows == 0:
        return
    ours, mirrored = paired_rates(wins, losses, rows), paired_rates(losses, wins, rows)
    assert ours.claim_low <= ours.low <= ours.point <= ours.high
    assert (ours.low, ours.high) == pytest.approx((-mirrored.high, -mirrored.low))
    if ours.claim_low > -1:
        assert paired_score(wins, losses, rows, ours.claim_low) == pytest.approx(stats.norm.ppf(0.99), abs=1e-5)


def test_paired_interval_by_hand() -> None:
    # Nothing differs: the likeliest rate of losses is -d and the score is (-n d - 1/2) / sqrt(n (-d) (1 + d)).
    bound, rows = paired_rates(0, 0, 400).claim_low, 400
    score = (-rows * bound - 0.5) / np.sqrt(rows * -bound * (1 + bound))
    assert score == pytest.approx(stats.norm.ppf(0.99))


@pytest.mark.parametrize("rows", [50, 120, 240])
@pytest.mark.parametrize("difference", [-0.02, 0.0])
def test_a_paired_claim_is_wrong_at_most_as_often_as_it_says(rows: int, difference: float) -> None:
    """Every outcome is enumerated, at every rate of wins: the chance that the bound exceeds the true difference."""
    wins, losses = (grid.ravel() for grid in np.indices((rows + 1, rows + 1)))
    inside = wins + losses <= rows
    wins, losses = wins[inside], losses[inside]
    score = np.array([paired_score(int(w), int(b), rows, difference) for w, b in zip(wins, losses, strict=True)])
    claims = score > stats.norm.ppf(1 - CLAIM_ALPHA)
    wins, losses = wins[claims], losses[claims]
    for rate in np.linspace(0.001, 0.45, 60):
        shares = [rate, rate - difference, 1 - 2 * rate + difference]
        counts = np.stack([wins, losses, rows - wins - losses], axis=1)
        assert stats.multinomial.pmf(counts, rows, shares).sum() <= CLAIM_ALPHA


def test_paired_difference_counts_wins_and_losses() -> None:
    ours = np.array([True, True, True, False, False, True])
    theirs = np.array([True, False, False, True, False, True])
    compared = paired_difference("base", ours, theirs)
    assert (compared.wins, compared.losses, compared.other) == (2, 1, "base")
    assert compared.difference.point == pytest.approx(1 / 6)
    assert compared.difference.method == "tango"
    assert compared.p_value == 1.0


def test_no_rows_is_an_error_that_says_so() -> None:
    for call in (lambda: clopper_pearson(0, 0), lambda: wilson(0, 0), lambda: required_correct(0, 0.9)):
        with pytest.raises(DataError, match="no rows"):
            call()
