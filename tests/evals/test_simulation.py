"""The promise of the gate, simulated: over all looks at one locked set, luck promotes in at most 5 % of cases.

Every run draws a locked set and then `LOOKS` candidates that are no better than they may be: exactly at the goal, or
exactly as much worse than the champion as the margin allows. Rows differ in difficulty, which all candidates share.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from evals.scorers import macro_f1
from evals.statistics import ALPHA, CLAIM_ALPHA, LOOKS, bca_interval, clopper_pearson, paired_difference
from evals.verdict import MARGIN, judge
from moatelier.contracts import EvalReport, Goal, Interval, MetricName, PairedComparison

Right = NDArray[np.bool_]


@cache
def exact(right: int, rows: int, alpha: float) -> Interval:
    return clopper_pearson(right, rows, alpha=alpha)


def report(metric: MetricName, interval: Interval, rows: int) -> EvalReport:
    return EvalReport(subject="c", split="test", rows=rows, kind="classification", metrics={metric: interval})


def promoted(right: Right, target: float, against: PairedComparison | None = None, alpha: float = CLAIM_ALPHA) -> bool:
    interval = exact(int(right.sum()), len(right), alpha)
    return judge(Goal(metric="accuracy", target=target), report("accuracy", interval, len(right)), against).promoted


def locked_sets(
    runs: int, rows: int, rate: float, spread: float, seed: int
) -> Iterator[tuple[NDArray[np.float64], np.random.Generator]]:
    """For each run the probability that a candidate gets a row right [rows]; small spread: hard and easy rows."""
    random = np.random.default_rng(seed)
    for _ in range(runs):
        yield random.beta(rate * spread, (1 - rate) * spread, rows), random


@pytest.mark.parametrize("spread", [0.5, 1000.0])
def test_candidates_at_the_goal_are_rarely_promoted(spread: float) -> None:
    runs, wins, uncorrected = 1000, 0, 0
    for chances, random in locked_sets(runs, 200, 0.9, spread, seed=1):
        looks = [random.random(len(chances)) < chances for _ in range(LOOKS)]
        wins += any(promoted(right, 0.9) for right in looks)
        uncorrected += any(promoted(right, 0.9, alpha=ALPHA) for right in looks)
    assert wins <= 0.05 * runs
    assert uncorrected > 0.05 * runs  # the simulation can tell: 95 % bounds at each look would break the promise


@pytest.mark.parametrize("spread", [2.0, 1000.0])
def test_candidates_worse_by_the_margin_are_rarely_promoted(spread: float) -> None:
    runs, wins = 1000, 0
    for chances, random in locked_sets(runs, 300, 0.92, spread, seed=2):
        champion = random.random(len(chances)) < chances
        for _ in range(LOOKS):
            # Worse by exactly the margin: where the champion is right, it is wrong a little more often.
            ours = (random.random(len(chances)) < chances) & (random.random(len(chances)) < 1 - MARGIN / 0.92)
            if promoted(ours, 0.5, paired_difference("champion", ours, champion)):
                wins += 1
                break
    assert wins <= 0.05 * runs


@pytest.mark.parametrize(
    ("runs", "labels", "rows", "target"),
    [
        (150, 11, 180, 0.95),
        pytest.param(1000, 11, 180, 0.95, marks=pytest.mark.slow),
        pytest.param(300, 77, 400, 0.85, marks=pytest.mark.slow),
    ],
)
def test_candidates_at_a_macro_f1_goal_are_rarely_promoted(runs: int, labels: int, rows: int, target: float) -> None:
    names, wins, goal = [str(label) for label in range(labels)], 0, Goal(metric="macro_f1", target=target)
    truth = np.arange(rows) % labels
    for run, (chances, random) in enumerate(locked_sets(runs, rows, target, 5.0, seed=3)):
        for look in range(LOOKS):
            # Balanced labels and symmetric mistakes: then macro-F1 is accuracy in the long run.
            wrong = random.random(rows) >= chances
            guess = np.where(wrong, (truth + random.integers(1, labels, rows)) % labels, truth)
            statistic = macro_f1(names, [names[code] for code in truth], [names[code] for code in guess])
            fallback = clopper_pearson(int((~wrong).sum()), rows)
            interval = bca_interval(statistic, rows, fallback, draws=1000, seed=LOOKS * run + look)
            if judge(goal, report("macro_f1", interval, rows), None).promoted:
                wins += 1
                break
    assert wins <= 0.05 * runs
