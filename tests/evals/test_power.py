"""What a locked set can show, against the gate's own intervals and by simulation."""

import numpy as np
import pytest

from evals.power import POWER, detectable_gain, detectable_promotion, detectable_rate, least_wins, promotion_power
from evals.statistics import CLAIM_ALPHA, paired_rates, required_correct
from moatelier.errors import DataError


@pytest.mark.parametrize("differing", [0, 1, 5, 6, 7, 20, 63, 200])
def test_as_many_wins_are_needed_as_the_interval_says(differing: int) -> None:
    needed = least_wins(differing)
    if needed <= differing:
        assert paired_rates(needed, differing - needed, 400).claim_low > 0
    if 0 < needed - 1 <= differing:
        assert paired_rates(needed - 1, differing - needed + 1, 400).claim_low <= 0


def test_the_power_is_what_a_simulation_counts() -> None:
    rows, target, other, gain = 150, 0.75, 0.7, 0.13
    told = promotion_power(rows, target, other, gain)
    random, needed, shown = np.random.default_rng(0), required_correct(rows, target, CLAIM_ALPHA), 0
    assert needed is not None
    for _ in range(4000):
        ours, theirs = random.random(rows) < other + gain, random.random(rows) < other
        wins, losses = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        shown += wins >= least_wins(wins + losses) and ours.sum() >= needed
    assert shown / 4000 == pytest.approx(told, abs=0.025)


def test_more_rows_show_smaller_gains() -> None:
    gains = [detectable_gain(rows, 0.8) for rows in (100, 400, 1600)]
    assert None not in gains
    assert gains == sorted(gains, key=lambda gain: -(gain or 0)) and gains[0] > 2 * gains[2]  # type: ignore[operator]
    assert promotion_power(400, 0.0, 0.8, gains[1] or 0) == pytest.approx(POWER, abs=1e-3)


def test_a_goal_needs_a_rate_above_it() -> None:
    rate = detectable_rate(200, 0.9)
    assert rate is not None and 0.94 < rate < 0.98
    assert detectable_rate(20, 0.95) is None
    gain = detectable_promotion(200, 0.9, 0.5)
    assert gain is not None and 0.5 + gain == pytest.approx(rate, abs=1e-3)  # the gain is plain, the goal decides


def test_too_few_rows_show_nothing() -> None:
    assert detectable_gain(6, 0.5) is None
    with pytest.raises(DataError):
        detectable_gain(0, 0.5)
