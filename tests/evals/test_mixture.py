"""A recipe's table, by hand and against its promises."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.mixture import Given, Outcome, error_correlation, majority, table
from evals.statistics import paired_rates
from moatelier.errors import DataError


def outcome(
    row: int, singles: str, recipe: bool, routed: bool | None = None, *, group: str = "", **price: float
) -> Outcome:
    """A row on which the models `a`, `b`, ... are right where `singles` has a 1."""
    names = "abcdefgh"[: len(singles)]
    answers = {name: text(right == "1", name, row, **price) for name, right in zip(names, singles, strict=True)}
    return Outcome(
        id=str(row),
        group=group or str(row),
        truth=f"yes {row}",  # each row another, or always the commonest would be right
        singles=answers,
        proposals=answers,
        recipe=text(recipe, "r", row, tokens=30, seconds=2.0),
        routed=None if routed is None else text(routed, "q", row, tokens=10, seconds=1.0),
    )


def text(right: bool, name: str, row: int = 0, tokens: float = 10, seconds: float = 1.0) -> Given:
    return Given(f"yes {row}" if right else f"no, says {name}", int(tokens), seconds)


def rows(patterns: list[tuple[str, bool, bool | None]], times: int = 1) -> list[Outcome]:
    return [outcome(number, *pattern) for number, pattern in enumerate(patterns * times)]


def test_a_table_by_hand() -> None:
    made = table(
        rows([("110", True, True), ("001", True, False), ("100", False, False), ("000", False, False)], times=10)
    )
    assert made.rows == made.groups == 40
    assert [line.right.point for line in made.singles] == [0.5, 0.25, 0.25]
    assert made.mean_single.right.point == pytest.approx(1 / 3)
    assert (made.best_single.subject, made.best_single.right.point) == ("a", 0.5)
    assert (made.routed_by, made.routed.right.point, made.recipe.right.point) == ("router", 0.25, 0.5)
    assert made.vote.right.point == 0.25 + 0.25, "in the third row all differ, and the first proposal stands"
    assert made.oracle.right.point == 0.75
    assert made.share_of_oracle == pytest.approx((0.5 - 0.25) / (0.75 - 0.25))
    assert made.share_from_mean == pytest.approx((0.5 - 1 / 3) / (0.75 - 1 / 3))
    assert (made.gain.wins, made.gain.losses) == (10, 0)
    assert made.gain.difference == paired_rates(10, 0, 40), "rows that stand alone are compared as the gate does"


def test_the_price_of_each_subject() -> None:
    made = table(rows([("11", True, True), ("10", True, False)], times=5))
    assert (made.singles[0].tokens, made.vote.tokens, made.recipe.tokens, made.routed.tokens) == (10, 20, 30, 10)
    assert (made.vote.seconds, made.recipe.seconds) == (1.0, 2.0), "proposers are asked at once"
    assert made.recipe.per_1000_tokens == pytest.approx(1000 / 30, abs=1e-3)
    assert made.recipe.per_second == 0.5 and made.routed.per_1000_tokens == 50


def test_without_a_router_the_best_single_in_hindsight_stands_in() -> None:
    made = table(rows([("10", True, None), ("11", True, None), ("10", False, None)], times=4))
    assert (made.routed_by, made.routed.subject, made.gain.other) == ("hindsight", "a", "a")
    assert made.gain.losses == 4 and made.gain.difference.point < 0


@pytest.mark.parametrize("lucky", [False, True])
def test_where_the_commonest_answer_is_right_more_often_it_is_to_be_beaten(lucky: bool) -> None:
    """A recipe that compares what two models perceive must beat whoever always says yes, not models that cannot."""
    asked = [replace(outcome(n, "10" if lucky and not n else "00", True, False), truth="yes") for n in range(10)]
    made = table([replace(one, truth="no") if n > 5 else _said(one, "yes") for n, one in enumerate(asked)])
    assert (made.routed_by, made.gain.other) == ("commonest", "the commonest answer")
    assert (made.routed.right.point, made.recipe.right.point, made.gain.difference.point) == (0.6, 0.6, 0.0)


def _said(one: Outcome, text: str) -> Outcome:
    return replace(one, recipe=replace(one.recipe, text=text))


def test_a_router_that_cannot_be_asked_is_no_comparison() -> None:
    asked = rows([("10", True, True), ("11", True, True)], times=5)
    made = table([replace(one, routed=Given("", error="not_found")) for one in asked])
    assert (made.routed_by, made.routed.subject) == ("hindsight", "a")


def test_a_failed_call_is_wrong_and_told() -> None:
    good = outcome(0, "11", True, True)
    broken = Outcome(
        id="1",
        group="1",
        truth="",
        singles=good.singles,
        proposals={"a": Given("", error="upstream_error"), "b": Given("")},
        recipe=Given("", error="upstream_error"),
        routed=Given("", error="upstream_error"),
    )
    made = table([good, broken])
    assert made.recipe.right.point == 0.5 and made.failed == {"routed": 1, "recipe": 1}
    assert made.oracle.right.point == 1.0, "an empty answer may be the right one, a failed one may not"


def test_repeated_questions_count_as_one_draw() -> None:
    """Ten questions asked twenty times each show no more than ten questions do."""
    patterns: list[tuple[str, bool, bool | None]] = [("1", True, True)] * 6 + [("1", True, False)] * 4
    alone = table(rows(patterns))
    repeated = table(
        [outcome(20 * q + copy, *pattern, group=str(q)) for q, pattern in enumerate(patterns) for copy in range(20)]
    )
    assert (repeated.rows, repeated.groups) == (200, 10)
    assert repeated.gain.difference.point == pytest.approx(0.4) and repeated.gain.wins == 80
    assert repeated.gain.difference.claim_low <= alone.gain.difference.claim_low + 1e-9
    naive = table(rows(patterns, times=20))
    assert repeated.gain.difference.claim_low < naive.gain.difference.claim_low - 0.1
    assert repeated.recipe.right.low < 0.8 < naive.recipe.right.low


def test_pairs_of_questions_that_have_little_in_common_lose_little() -> None:
    """Half as many groups, each with two rows that are right or wrong by themselves: about the same is shown."""
    random = np.random.default_rng(2)
    patterns: list[tuple[str, bool, bool | None]] = [
        ("1", bool(random.random() < 0.75), bool(random.random() < 0.66)) for _ in range(1000)
    ]
    alone = table(rows(patterns)).gain.difference
    paired = table([outcome(n, *pattern, group=str(n // 2)) for n, pattern in enumerate(patterns)]).gain.difference
    assert paired.point == pytest.approx(alone.point) and abs(paired.claim_low - alone.claim_low) < 0.01


def test_errors_correlate_where_proposers_fail_together() -> None:
    together, apart = np.array([1.0, 0, 1, 0]), np.array([0.0, 1, 0, 1])
    assert error_correlation([together, together]) == 1.0
    assert error_correlation([together, apart]) == -1.0
    assert error_correlation([together, np.ones(4)]) is None and error_correlation([together]) is None


@pytest.mark.parametrize(
    ("texts", "chosen"), [("b a a", "a"), ("b a", "b"), ("c b a b a", "b"), ("", ""), ("a  a b", "a")]
)
def test_the_majority_and_its_ties(texts: str, chosen: str) -> None:
    assert majority([Given(text) for text in texts.split(" ") if text]) == chosen
    assert majority([Given("x", error="late"), Given("x", error="late"), Given("y")]) == "y"


def test_rows_that_not_everybody_answered_are_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        table([])
    with pytest.raises(DataError, match="all of them answered"):
        table([outcome(0, "11", True), outcome(1, "1", True)])
    with pytest.raises(DataError, match="all of them answered"):
        table([outcome(0, "1", True, True), outcome(1, "1", True)])


PATTERN = st.tuples(st.text("01", min_size=3, max_size=3), st.booleans(), st.booleans())


@given(st.lists(PATTERN, min_size=1, max_size=30), st.booleans())
def test_the_table_keeps_its_order(patterns: list[tuple[str, bool, bool | None]], grouped: bool) -> None:
    outcomes = [outcome(n, *pattern, group=str(n // 2) if grouped else "") for n, pattern in enumerate(patterns)]
    made = table(outcomes)
    lines = [*made.singles, made.mean_single, made.best_single, made.routed, made.vote, made.recipe, made.oracle]
    assert all(0 <= line.right.low <= line.right.high <= 1 for line in lines)
    points = [line.right.point for line in (made.mean_single, made.best_single, made.oracle)]
    assert all(lower <= higher + 1e-12 for lower, higher in pairwise(points))
    assert made.vote.right.point <= made.oracle.right.point
    gain = made.gain.difference
    assert gain.point == pytest.approx(made.recipe.right.point - made.routed.right.point)
    assert gain.claim_low <= gain.point + 1e-12
