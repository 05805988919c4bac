"""The gambler keeps his promises: at any moment, under any mix of words, and he is not slow where answers are worse."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.sequential import LEAST, compare, log_wealth

Words = list[tuple[bool, float]]


def words(random: np.random.Generator, ours: float, theirs: float, count: int, share: float = 0.5) -> Words:
    mine = random.random(count) < share
    good = random.random(count) < np.where(mine, ours, theirs)
    return list(zip(mine.tolist(), good.astype(float).tolist(), strict=True))


@pytest.mark.parametrize(("rate", "share"), [(0.8, 0.5), (0.5, 0.3), (0.95, 0.1)])
def test_equal_answers_are_called_worse_in_at_most_five_of_a_hundred_services(rate: float, share: float) -> None:
    random = np.random.default_rng(7)
    alarms = sum(compare(words(random, rate, rate, 1000, share)).worse for _ in range(1000))
    assert alarms <= 50


def test_a_look_after_every_word_costs_nothing() -> None:
    """The verdict on a prefix is never taken back: what one look at the end says, every look together says."""
    random = np.random.default_rng(3)
    for _ in range(20):
        said = words(random, 0.6, 0.75, 300)
        looks = [compare(said[:end]).worse for end in range(0, 301, 10)]
        assert all(before <= after for before, after in pairwise(looks))


@pytest.mark.parametrize(("ours", "theirs", "within"), [(0.6, 0.85, 400), (0.5, 0.9, 200)])
def test_worse_answers_are_found_within_some_hundred_words(ours: float, theirs: float, within: int) -> None:
    random = np.random.default_rng(11)
    found = sum(compare(words(random, ours, theirs, within)).worse for _ in range(100))
    assert found >= 90


def test_better_answers_are_not_called_worse() -> None:
    random = np.random.default_rng(5)
    assert not any(compare(words(random, 0.9, 0.7, 600)).worse for _ in range(100))


def test_nothing_is_concluded_before_both_sides_have_spoken_often_enough() -> None:
    bad: Words = [(True, 0.0), (False, 1.0)] * (LEAST - 1)
    assert not compare(bad).worse and compare(bad).upper == 1.0
    assert compare([*bad, (True, 0.0), (False, 1.0)]).worse
    assert not compare([(True, 0.0)] * 500).worse, "nothing to compare with"
    assert compare([]).rounds == 0


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.5, 1.0])), max_size=120))
def test_a_round_closes_as_soon_as_both_sides_have_spoken(said: Words) -> None:
    found = compare(said)
    switches = sum(one[0] != other[0] for one, other in pairwise(said))
    assert found.ours + found.theirs == len(said)
    assert (switches + 1) // 2 <= found.rounds <= min(found.ours, found.theirs) or not found.rounds
    assert -1 <= found.gain <= 1 and found.worse == (found.upper < 0)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.floats(-0.9, 0.9), st.floats(0, 0.09))
def test_wealth_grows_with_what_is_bet_against(gains: list[float], least: float, more: float) -> None:
    lower, higher = log_wealth(np.array(gains), least), log_wealth(np.array(gains), least + more)
    assert (higher >= lower - 1e-9).all()


def test_a_fair_game_leaves_the_wealth_as_it_is_on_average() -> None:
    """One round, gain -0.5, 0 or 0.5 with equal chances: the mean over them of the wealth is 1."""
    assert np.mean([np.exp(log_wealth(np.array([gain])))[0] for gain in (-0.5, 0.0, 0.5)]) == pytest.approx(1)
