"""The bandit: without feedback it is the router; with feedback it finds what pleases; its propensities are true."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moatelier.contracts import Feedback
from serving.bandit import FLOOR, MOST, Bandit, highest_draw, reward
from serving.router import BASE, Ranked


def ranked(**chances: float) -> Ranked:
    left = 1 - sum(chances.values())
    pairs = sorted({**chances, BASE: left}.items(), key=lambda pair: -pair[1])
    return Ranked(tuple(name for name, _ in pairs), tuple(chance for _, chance in pairs), 0.8)


shares = st.lists(st.floats(0.01, 1), min_size=1, max_size=12).map(
    lambda parts: ranked(**{f"a{n}": part / (sum(parts) + 0.2) for n, part in enumerate(parts)})
)


@settings(max_examples=60, deadline=None)
@given(request=shares, seed=st.integers(0, 99), explore=st.floats(0, 1))
def test_without_feedback_it_is_the_router_itself(request: Ranked, seed: int, explore: float) -> None:
    elsewhere = {("another region", request.choice): (0, 50)}
    choice = Bandit(elsewhere, explore=explore).choose(request, np.random.default_rng(seed))
    assert (choice.chosen, choice.region, choice.propensity) == (request.choice, request.choice, 1.0)
    assert len(choice.probabilities) <= MOST
    assert all(chance >= FLOOR or name == request.choice for name, chance in choice.probabilities.items())


def test_bad_feedback_moves_the_route_and_good_feedback_keeps_it() -> None:
    request, random = ranked(near=0.6, other=0.35), np.random.default_rng(0)
    assert Bandit({("near", "near"): (0, 6)}).choose(request, random).chosen == "other"
    assert Bandit({("near", "near"): (6, 0)}).choose(request, random).chosen == "near"
    all_bad = {("near", "near"): (0, 40), ("near", "other"): (0, 40)}
    assert Bandit(all_bad).choose(ranked(near=0.5, other=0.2), random).chosen == BASE


@settings(max_examples=40, deadline=None)
@given(
    request=shares,
    tallies=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=12, max_size=12),
    explore=st.floats(0, 1),
)
def test_propensities_are_probabilities(request: Ranked, tallies: list[tuple[int, int]], explore: float) -> None:
    known = {(request.choice, f"a{n}"): tally for n, tally in enumerate(tallies)}
    bandit = Bandit(known, explore=explore)
    weighed = list(bandit.choose(request, np.random.default_rng(0)).probabilities.items())
    chances = bandit.propensities(request.choice, weighed)
    assert chances.sum() == pytest.approx(1) and (chances >= 0).all()
    assert chances.max() >= 1 - explore - 1e-9, "no more than the share that may be explored is"


def test_propensities_match_how_often_each_is_chosen() -> None:
    request = ranked(a=0.4, b=0.3, c=0.15)
    bandit = Bandit({("a", "a"): (3, 4), ("a", "b"): (2, 1), ("a", BASE): (0, 2)}, explore=0.6)
    random = np.random.default_rng(1)
    drawn = [bandit.choose(request, random) for _ in range(4000)]
    logged = {choice.chosen: choice.propensity for choice in drawn}
    assert len(logged) >= 3
    for name, times in Counter(choice.chosen for choice in drawn).items():
        assert times / 4000 == pytest.approx(logged[name], abs=0.03)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(1, 60), st.floats(1, 60)), min_size=2, max_size=5), st.integers(0, 99))
def test_the_integral_is_thompson_sampling(params: list[tuple[float, float]], seed: int) -> None:
    good, bad = np.array(params).T
    draws = np.random.default_rng(seed).beta(good, bad, size=(20_000, len(params)))
    frequencies = np.bincount(draws.argmax(axis=1), minlength=len(params)) / 20_000
    assert np.abs(highest_draw(good, bad) - frequencies).max() < 0.02


def test_a_planted_reward_is_found() -> None:
    """The router prefers `near`, people prefer `better`: with exploration most requests end up there."""
    pleases = {"near": 0.3, "better": 0.8, BASE: 0.1}
    tallies: dict[tuple[str, str], tuple[int, int]] = {("near", "near"): (1, 0)}
    random, chosen = np.random.default_rng(2), []
    for _ in range(600):
        choice = Bandit(tallies, explore=0.5).choose(ranked(near=0.7, better=0.2), random)
        chosen.append(choice.chosen)
        good, bad = tallies.get((choice.region, choice.chosen), (0, 0))
        happy = bool(random.random() < pleases[choice.chosen])
        tallies[choice.region, choice.chosen] = (good + happy, bad + (not happy))
    assert chosen[0] == "near" or "near" in chosen[:5]
    assert np.mean([name == "better" for name in chosen[-200:]]) > 0.9


def test_estimates_from_logged_propensities_are_honest() -> None:
    """What always `b` would have earned, estimated from a log in which `b` was seldom chosen."""
    request, random = ranked(a=0.5, b=0.3), np.random.default_rng(3)
    bandit = Bandit({("a", "a"): (4, 2)}, explore=0.5)
    earned = []
    for _ in range(6000):
        choice = bandit.choose(request, random)
        happy = random.random() < {"a": 0.6, "b": 0.7, BASE: 0.2}[choice.chosen]
        earned.append((choice.chosen == "b") * happy / choice.propensity)
    assert np.mean(earned) == pytest.approx(0.7, abs=0.06)


@pytest.mark.parametrize(
    ("said", "worth"),
    [
        ({"rating": 1}, 1),
        ({"rating": -1}, 0),
        ({"rating": 1, "edit": "a comma less"}, 1),
        ({"edit": "something else"}, 0),
        ({"comment": "hm"}, None),
        ({"label": "refund"}, None),
    ],
)
def test_what_feedback_says_of_an_answer(said: dict[str, object], worth: int | None) -> None:
    assert reward(Feedback.model_validate({"completion": "c", **said})) == worth
