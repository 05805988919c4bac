"""What counts as right, and the metrics, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from evals.scorers import NO_LABEL, Answered, compare, macro_f1, need_metric, score, unseen_margin
from moatelier.contracts import Kind
from moatelier.errors import DataError, InvalidRequest

LABELS = ("card_arrival", "refund", "Refund_not_showing_up")


def rows(*pairs: tuple[str, str]) -> list[Answered]:
    return [Answered(truth, answer) for truth, answer in pairs]


def test_an_answer_counts_when_it_is_equal_but_for_white_space() -> None:
    given = rows(("refund", " refund\n"), ("refund", "Refund"), ("refund", "refund."), ("refund", "card_arrival"))
    scores = score("classification", LABELS, given)
    assert scores.metrics["accuracy"].point == 0.25
    assert scores.metrics["exact_match"] == scores.metrics["accuracy"]


def test_an_answer_that_is_no_label_has_its_own_column() -> None:
    scores = score("classification", LABELS, rows(("refund", "refund"), ("refund", "Hello!"), ("card_arrival", "")))
    assert scores.confusion == (
        ("card_arrival", NO_LABEL, 1),
        ("refund", NO_LABEL, 1),
        ("refund", "refund", 1),
    )
    assert scores.format_error_rate == pytest.approx(2 / 3)
    assert NO_LABEL not in scores.per_class


def test_macro_f1_and_classes_agree_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth = [LABELS[code] for code in random.choice(3, 200, p=[0.6, 0.3, 0.1])]
    guess = [label if random.random() < 0.8 else str(random.choice([*LABELS, "junk"])) for label in truth]
    scores = score("classification", LABELS, rows(*zip(truth, guess, strict=True)))
    expected = f1_score(truth, guess, labels=list(LABELS), average="macro")
    assert scores.metrics["macro_f1"].point == pytest.approx(expected)
    precision, recall, f1, support = precision_recall_fscore_support(truth, guess, labels=list(LABELS))
    for code, label in enumerate(LABELS):
        figures = scores.per_class[label]
        assert list(figures.values()) == pytest.approx([precision[code], recall[code], f1[code], support[code]])


def test_macro_f1_by_weights_equals_macro_f1_of_the_repeated_rows() -> None:
    truth = ["a", "a", "b", "b", "c"]
    guess = ["a", "b", "b", "junk", "c"]
    weights = np.array([[1, 2, 0, 3, 1], [2, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=float)
    for weighted, row in zip(macro_f1("abc", truth, guess)(weights), weights.astype(int), strict=True):
        repeated = [(label, said) for label, said, times in zip(truth, guess, row, strict=True) for _ in range(times)]
        labels = sorted({label for label, _ in repeated})
        expected = f1_score(*zip(*repeated, strict=True), labels=labels, average="macro")
        assert weighted == pytest.approx(expected)


def test_a_label_without_rows_is_not_averaged() -> None:
    scores = score("classification", LABELS, rows(("refund", "refund"), ("card_arrival", "card_arrival")))
    assert scores.metrics["macro_f1"].point == 1
    assert scores.metrics["macro_f1"].method == "clopper-pearson"
    assert scores.metrics["macro_f1"].low == scores.metrics["accuracy"].low < 1
    assert scores.metrics["macro_f1"].claim_low <= scores.metrics["accuracy"].claim_low


def test_unseen_mistakes_by_hand() -> None:
    # Two labels with n rows each, all right: F1's derivatives are 1 / (2 n) both ways.
    n, z = 8, 2.3263479
    rate = (n + 0.5) / (n + 1)
    variance = (n * rate * (1 - rate) + 0.5) / (2 * n) ** 2
    truth = ["a"] * n + ["b"] * n
    assert unseen_margin(["a", "b", "c"], truth, truth, 0.01) == pytest.approx(z * (2 * variance) ** 0.5 / 2)


def test_a_rare_label_that_happens_to_be_right_is_no_certainty() -> None:
    often = [Answered("a", "a" if n % 20 else "b") for n in range(100)]
    common = often + [Answered("b", "b")] * 100
    rare = often + [Answered("b", "b")]
    margins = [
        found.point - found.claim_low
        for found in (score("classification", ("a", "b"), rows).metrics["macro_f1"] for rows in (common, rare))
    ]
    assert margins[1] > 2 * margins[0]


def test_a_true_label_that_training_never_saw_is_still_a_label() -> None:
    scores = score("classification", LABELS, rows(("new_label", "refund"), ("refund", "new_label")))
    assert scores.format_error_rate == 0
    assert scores.per_class["new_label"]["support"] == 1


def test_natural_stops_are_counted() -> None:
    scores = score("chat", (), [Answered("yes", "yes", True), Answered("no", "no no no", False)])
    assert scores.natural_stop_rate == 0.5
    assert scores.metrics.keys() == {"accuracy", "exact_match"}
    assert scores.confusion == () and scores.per_class == {}


def test_comparison_of_accuracy_and_of_macro_f1() -> None:
    truth = ["refund"] * 30 + ["card_arrival"] * 10
    ours = rows(*((label, label if n % 10 else "junk") for n, label in enumerate(truth)))
    theirs = rows(*((label, "refund") for label in truth))
    by_accuracy = compare("accuracy", "classification", LABELS, "base", ours, theirs)
    assert (by_accuracy.wins, by_accuracy.losses) == (9, 3)
    assert by_accuracy.difference.point == pytest.approx(0.15)
    by_f1 = compare("macro_f1", "classification", LABELS, "base", ours, theirs)
    expected = (2 * 27 / 57 + 2 * 9 / 19) / 2 - (2 * 30 / 70 + 0) / 2
    assert by_f1.difference.point == pytest.approx(expected)
    assert by_f1.difference.method == "bca"
    assert by_f1.p_value == by_accuracy.p_value
    same = compare("macro_f1", "classification", LABELS, "base", ours, ours)
    assert same.difference.point == 0 and same.difference.method == "tango"


def test_only_the_same_rows_can_be_compared() -> None:
    with pytest.raises(DataError, match="same rows"):
        compare("accuracy", "chat", (), "base", rows(("a", "a")), rows(("b", "b")))


@pytest.mark.parametrize("kind", ["chat", "classification"])
def test_a_goal_that_cannot_be_measured_is_refused(kind: Kind) -> None:
    need_metric(kind, "accuracy")
    if kind == "chat":
        with pytest.raises(InvalidRequest, match="macro_f1"):
            need_metric(kind, "macro_f1")


def test_scoring_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match="no rows"):
        score("classification", LABELS, [])
