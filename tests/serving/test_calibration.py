"""Calibration on invented domains whose truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moatelier.contracts import Calibration
from serving.calibration import OUT_SHARE, auroc, expected_error, fit, probabilities
from serving.router import Router
from tests.serving.clusters import nobodys, world


def _without_own(scores: np.ndarray, owners: np.ndarray) -> np.ndarray:
    others = scores.copy()
    others[np.arange(len(scores)), owners] = -1
    return others.max(axis=1)


def test_stated_probabilities_come_true_on_fresh_rows() -> None:
    there = world(6, noise=0.35)  # so noisy that a good part of the rows lies nearer to another domain
    plain = Router(there.profiles)
    vectors, owners = there.rows(150, seed=1)
    scores = plain.scores(vectors)
    known = fit(scores, owners, plain.scores(nobodys(300, 2)).max(axis=1))
    fresh, theirs = there.rows(400, seed=3)
    chances = probabilities(plain.scores(fresh), known)[:, :-1]
    inside = chances / chances.sum(axis=1, keepdims=True)
    right = inside.argmax(axis=1) == theirs
    assert 0.6 < right.mean() < 0.99, "neither hopeless nor trivial"
    assert expected_error(inside.max(axis=1), right) <= 0.05


def test_what_is_chosen_is_calibrated_with_texts_of_nobody_among_the_rows() -> None:
    there = world(6, noise=0.2)
    plain = Router(there.profiles)
    vectors, owners = there.rows(150, seed=1)
    known = fit(plain.scores(vectors), owners, plain.scores(nobodys(400, 2)).max(axis=1))
    fresh, theirs = there.rows(300, seed=3)
    strangers = nobodys(1800, 4)
    chances = probabilities(plain.scores(np.concatenate([fresh, strangers])), known)
    truth = np.concatenate([theirs, np.full(len(strangers), len(there.profiles))])
    weights = np.where(truth < len(there.profiles), (1 - OUT_SHARE) / len(fresh), OUT_SHARE / len(strangers))
    assert expected_error(chances.max(axis=1), chances.argmax(axis=1) == truth, weights) <= 0.05
    best = plain.scores(fresh).max(axis=1)
    assert auroc(best, plain.scores(strangers).max(axis=1)) > 0.95


def test_rows_without_their_own_adapter_raise_the_threshold() -> None:
    there = world(8, noise=0.15, dims=6)  # so few dimensions that the domains crowd each other
    plain = Router(there.profiles)
    vectors, owners = there.rows(100, seed=1)
    scores = plain.scores(vectors)
    far = plain.scores(nobodys(200, 2, dims=6)).max(axis=1) - 0.4
    alone, warned = fit(scores, owners, far), fit(scores, owners, far, _without_own(scores, owners))
    assert warned.threshold > alone.threshold
    assert (alone.rows, alone.out_rows, warned.out_rows) == (800, 200, 1000)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), domains=st.integers(1, 6), noise=st.floats(0.0, 0.6), rows=st.integers(1, 12))
def test_any_rows_give_a_calibration_that_can_be_used(seed: int, domains: int, noise: float, rows: int) -> None:
    there = world(domains, noise=noise, rows=rows, seed=seed)
    plain = Router(there.profiles)
    vectors, owners = there.rows(rows, seed=seed + 1)
    scores = plain.scores(vectors)
    known = fit(scores, owners, plain.scores(nobodys(20, seed)).max(axis=1), _without_own(scores, owners))
    assert 0.004 < known.temperature <= 1 and 0.0019 < known.width <= 0.51 and -3 < known.threshold < 3
    assert np.allclose(probabilities(scores, known).sum(axis=1), 1)


def test_without_rows_or_strangers_the_defaults_stand() -> None:
    empty = np.zeros((0, 2), dtype=np.float32)
    assert fit(empty, np.zeros(0, dtype=int), np.zeros(5)) == Calibration(out_rows=5)
    one = fit(np.full((9, 1), 0.8), np.zeros(9, dtype=int), np.zeros(0))
    assert (one.temperature, one.threshold) == (Calibration().temperature, Calibration().threshold)


def test_the_error_of_calibration_is_the_gap_between_stated_and_true() -> None:
    confidence = np.full(1000, 0.9)
    assert expected_error(confidence, np.arange(1000) < 900) == pytest.approx(0, abs=1e-9)
    assert expected_error(confidence, np.arange(1000) < 600) == pytest.approx(0.3)
    assert expected_error(np.array([1.0]), np.array([True])) == 0
    mixed = expected_error(np.array([0.5, 0.5]), np.array([True, False]), np.array([3.0, 1.0]))
    assert mixed == pytest.approx(0.25)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_auroc_is_the_share_of_pairs_in_order(inside: list[int], outside: list[int]) -> None:
    pairs = [(a > b) + (a == b) / 2 for a in inside for b in outside]
    assert auroc(np.array(inside), np.array(outside)) == pytest.approx(np.mean(pairs))
