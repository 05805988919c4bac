"""Scores against hand calculations and against evals' own."""

import numpy as np
import pytest

from evals.scorers import macro_f1 as evals_macro_f1
from moatelier.errors import DataError
from modalities.vision.metrics import calibration_error, macro_f1, recall_at, top_k

SCORES = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.35, 0.25], [0.3, 0.4, 0.3]])
TARGETS = np.array([0, 1, 2, 1])


def test_top_k() -> None:
    assert [top_k(SCORES, TARGETS, k) for k in (1, 2, 3, 5)] == [0.5, 0.75, 1.0, 1.0]
    assert top_k(SCORES[:, :2], np.array([0, 0, 0, 0]), 1) == 0.5
    assert top_k(SCORES[:2], np.array([0, 0]), 1) == 0.5, "labels without rows are fine"


def test_macro_f1_is_that_of_evals() -> None:
    generator = np.random.default_rng(0)
    scores, targets = generator.random((60, 5)), generator.integers(0, 4, 60)
    names, truth = "abcde", ["abcde"[i] for i in targets]
    predicted = ["abcde"[i] for i in scores.argmax(axis=1)]
    expected = evals_macro_f1(names, truth, predicted)(np.ones((1, 60)))[0]
    assert macro_f1(scores, targets) == pytest.approx(expected)


def test_calibration_error_by_hand() -> None:
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    # bin of 0.9: one of two right, gap 0.4; bin of 0.6: both right, gap 0.4
    assert calibration_error(scores, np.array([0, 1, 0, 0])) == pytest.approx(0.4)
    sure = np.eye(3)[[0, 1, 2]]
    assert calibration_error(sure, np.array([0, 1, 2])) == 0 and calibration_error(sure, np.array([1, 2, 0])) == 1
    with pytest.raises(DataError, match="no probabilities"):
        calibration_error(scores * 2, np.array([0, 1, 0, 0]))


def test_recall_goes_both_ways_and_one_image_may_have_several_captions() -> None:
    similarity = np.array([[0.9, 0.2, 0.1], [0.3, 0.8, 0.4]])
    assert recall_at(similarity, ["a", "b"], ["a", "a", "b"], 1) == (0.5, pytest.approx(2 / 3))
    assert recall_at(similarity, ["a", "b"], ["a", "a", "b"], 2) == (1.0, 1.0)
    assert recall_at(np.ones((3, 3)), list("abc"), list("abc"), 1) == (0.0, 0.0)
    for shown in (["a", "c"], ["a", "b", "c"]):
        with pytest.raises(DataError):
            recall_at(similarity, shown, ["a", "a", "b"], 1)


@pytest.mark.parametrize(
    ("scores", "targets"),
    [
        (np.zeros((0, 3)), np.array([], dtype=np.int64)),
        (SCORES, TARGETS[:2]),
        (SCORES, np.array([0, 1, 2, 3])),
        (SCORES * np.nan, TARGETS),
    ],
    ids=["no rows", "another length", "an unknown label", "not finite"],
)
def test_what_does_not_fit_is_refused(scores: np.ndarray, targets: np.ndarray) -> None:
    for metric in (macro_f1, calibration_error, lambda s, t: top_k(s, t, 1)):
        with pytest.raises(DataError):
            metric(scores, targets)
