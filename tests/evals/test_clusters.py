"""Rows that hang together claim less: the design effect, and the promise of a bound over many draws."""

import numpy as np
import pytest

from evals.clusters import worth
from evals.scorers import Answered, compare, score
from evals.statistics import clopper_pearson


def test_groups_that_are_right_or_wrong_together_count_as_groups() -> None:
    right = np.repeat(np.arange(50) % 5 > 0, 8)
    groups = [str(row // 8) for row in range(400)]
    assert worth(right, groups) == pytest.approx(1 / 8, rel=0.03)
    assert worth(right, [None] * 400) == 1


def test_what_says_nothing_of_hanging_together_counts_whole() -> None:
    assert worth(np.ones(40), [str(row // 4) for row in range(40)]) == 1
    assert worth(np.arange(40) % 2, ["one"] * 40) == 1
    mixed = worth(np.arange(400) % 5 > 0, [str(row // 10) for row in range(400)])  # each group alike: less varied
    assert mixed == 1


def test_scores_and_comparisons_of_groups_claim_less() -> None:
    def rows(share: float, grouped: bool) -> list[Answered]:
        wrong = round(40 * (1 - share))
        return [
            Answered("yes", "no" if row // 8 < wrong else "yes", group=str(row // 8) if grouped else None)
            for row in range(320)
        ]

    alone, grouped = (score("chat", (), rows(0.9, together)).metrics["accuracy"] for together in (False, True))
    assert alone.point == grouped.point == 0.9 and grouped.claim_low < alone.claim_low - 0.05
    alone_gap, gap = (
        compare("accuracy", "chat", (), "base", rows(0.9, together), rows(0.6, together)) for together in (False, True)
    )
    assert gap.difference.claim_low < alone_gap.difference.claim_low


def test_the_bound_of_grouped_rows_holds_where_that_of_single_rows_does_not() -> None:
    random, rate, missed, naive = np.random.default_rng(0), 0.85, 0, 0
    for _ in range(400):
        chances = random.beta(rate * 2, (1 - rate) * 2, 60)
        right = (random.random((60, 8)) < chances[:, None]).ravel()
        groups = [str(row // 8) for row in range(480)]
        share = worth(right, groups)
        missed += clopper_pearson(share * right.sum(), share * 480, alpha=0.05).claim_low > rate
        naive += clopper_pearson(int(right.sum()), 480, alpha=0.05).claim_low > rate
    assert missed <= 0.06 * 400 < naive
