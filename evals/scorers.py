"""From answers to scores: what counts as right, and every metric with its interval.

An answer counts when it equals the expected one but for white space, which is what a client that compares strings would
find. For a classification an answer that is no label at all is predicted as `(no label)`: it costs its row like any
other mistake, has a column of its own in the confusion, and makes the format error rate.
"""

from collections import Counter
from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import special

from evals import recall, transcripts
from evals.answered import Answered, Scores
from evals.bootstrap import Floats, Statistic
from evals.clusters import worth
from evals.statistics import CLAIM_ALPHA, DRAWS, bca_interval, clopper_pearson, paired_difference
from moatelier.contracts import Interval, Kind, MetricName, PairedComparison
from moatelier.errors import DataError, InvalidRequest

__all__ = ["NO_LABEL", "Answered", "Scores", "compare", "metrics_of", "need_metric", "plain", "score"]

NO_LABEL = "(no label)"
_METRICS: dict[Kind, tuple[MetricName, ...]] = {
    "classification": ("accuracy", "macro_f1", "exact_match"),
    "chat": ("accuracy", "exact_match"),
    "transcription": ("word_accuracy", "exact_match"),
    "retrieval": ("recall_at_1", "recall_at_5"),
    "preference": ("preference_accuracy",),
    "thumbs": ("preference_accuracy",),
    "prompts": (),
}


def plain(text: str) -> str:
    """The text as it is compared: without outer white space, and runs of inner white space as one space."""
    return " ".join(text.split())


def metrics_of(kind: Kind) -> tuple[MetricName, ...]:
    """The metrics that rows of this kind have."""
    return _METRICS[kind]


def need_metric(kind: Kind, metric: MetricName) -> None:
    """Refuse a goal that cannot be measured.

    Raises:
        InvalidRequest: Rows of this kind have no such metric.
    """
    if metric not in metrics_of(kind):
        raise InvalidRequest(
            f"Rows of kind '{kind}' have no {metric}.",
            where="goal.metric",
            remedy=f"Choose one of: {', '.join(metrics_of(kind))}.",
        )


def score(
    kind: Kind, labels: Sequence[str], rows: Sequence[Answered], *, alpha: float = CLAIM_ALPHA, seed: int = 0
) -> Scores:
    """Score answers.

    Args:
        kind: `chat` rows have no classes, so only the share of right answers; for transcripts see `evals.transcripts`,
            for pictures with captions `evals.recall`.
        labels: The labels that an answer may be. A true label beyond them counts as one too.
        rows: At least one.
        alpha: One-sided level of every `claim_low`.
        seed: Fixes the bootstrap's resamples.

    Raises:
        DataError: There are no rows.
    """
    if kind == "transcription":
        return transcripts.score_words(rows, alpha=alpha, seed=seed)
    if kind == "retrieval":
        return recall.score_found(rows, alpha=alpha)
    right = rights(rows)
    share = worth(right, [row.group for row in rows])
    exact = clopper_pearson(share * int(right.sum()), share * len(rows), alpha=alpha)
    exact = exact.model_copy(update={"point": int(right.sum()) / len(rows)})  # not off by a rounding
    if kind in ("preference", "thumbs"):
        return Scores({"preference_accuracy": exact}, 1.0)
    stops = sum(row.stopped for row in rows) / len(rows)
    metrics = {"accuracy": exact, "exact_match": exact}
    if kind == "chat":
        return Scores(metrics, stops)
    known = _known(labels, rows)
    truth, predicted = _truths(rows), _predictions(known, rows)
    metrics["macro_f1"] = macro_f1_interval(known, truth, predicted, exact, alpha=alpha, seed=seed)
    return Scores(
        metrics=metrics,
        natural_stop_rate=stops,
        format_error_rate=predicted.count(NO_LABEL) / len(rows),
        per_class=per_class(known, truth, predicted),
        confusion=confusion(truth, predicted),
    )


def compare(
    metric: MetricName,
    kind: Kind,
    labels: Sequence[str],
    other: str,
    ours: Sequence[Answered],
    theirs: Sequence[Answered],
    *,
    alpha: float = CLAIM_ALPHA,
    seed: int = 0,
) -> PairedComparison:
    """Compare two subjects' answers to the same rows in the same order, by the metric of the goal.

    Raises:
        DataError: The rows are not the same, or there are none.
    """
    if _truths(ours) != _truths(theirs):
        raise DataError("Two subjects can only be compared on the same rows.", where=other)
    if kind == "transcription":
        return transcripts.compare_words(metric, other, ours, theirs, alpha=alpha, seed=seed)
    if kind == "retrieval":
        return recall.compare_found(metric, other, ours, theirs, alpha=alpha)
    difference = None
    if metric == "macro_f1":
        need_metric(kind, metric)
        known, truth = _known(labels, ours), _truths(ours)
        own_f1 = macro_f1(known, truth, _predictions(known, ours))
        other_f1 = macro_f1(known, truth, _predictions(known, theirs))

        def difference(weights: Floats) -> Floats:
            return own_f1(weights) - other_f1(weights)

    groups = [row.group for row in ours]
    mine, others = rights(ours), rights(theirs)
    return paired_difference(other, mine, others, difference=difference, groups=groups, alpha=alpha, seed=seed)


def rights(rows: Sequence[Answered]) -> NDArray[np.bool_]:
    """Which rows were answered right [rows]."""
    return np.array([plain(row.answer) == plain(row.truth) for row in rows], dtype=bool)


def macro_f1(labels: Sequence[str], truth: Sequence[str], predicted: Sequence[str]) -> Statistic:
    """Macro-F1 as a function of row weights [draws, rows] -> [draws].

    F1 of a label is 2 TP / (rows of it + predictions of it). The mean runs over the labels that have rows in the
    (weighted) sample: a label without any has no F1, and predicting it already costs the rows it was wrong for.
    """
    codes = {label: code for code, label in enumerate(labels)}
    is_label = _one_hot(codes, truth)
    is_predicted = _one_hot(codes, predicted)
    both = is_label * is_predicted

    def statistic(weights: Floats) -> Floats:
        rows, claimed, hits = weights @ is_label, weights @ is_predicted, weights @ both
        f1 = 2 * hits / np.maximum(rows + claimed, 1e-12)
        present = rows > 0
        mean: Floats = (f1 * present).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
        return mean

    return statistic


def macro_f1_interval(
    labels: Sequence[str],
    truth: Sequence[str],
    predicted: Sequence[str],
    exact: Interval,
    *,
    alpha: float = CLAIM_ALPHA,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """The bootstrap interval of macro-F1 with a bound to claim by that luck seldom lifts, see `bca_interval`.

    The bound is never closer to the point than the exact one of the accuracy, nor than `unseen_margin` allows: each of
    the four holds where another fails; together they missed in at most 1 % of the runs in each of ten simulated cases.

    Args:
        labels: The labels that count.
        truth: True label of each row.
        predicted: What each answer was taken for.
        exact: The interval of the accuracy.
        alpha: One-sided level of `claim_low`.
        draws: Number of resamples.
        seed: Fixes the resamples.
    """
    margin = max(exact.point - exact.claim_low, unseen_margin(labels, truth, predicted, alpha))
    statistic = macro_f1(labels, truth, predicted)
    return bca_interval(statistic, len(truth), exact, least_margin=margin, alpha=alpha, draws=draws, seed=seed)


def unseen_margin(labels: Sequence[str], truth: Sequence[str], predicted: Sequence[str], alpha: float) -> float:
    """How far macro-F1 may lie below its point by the counts of each label alone, mistakes not seen yet included.

    A label with one locked row, answered right, has F1 = 1 in every resample, so that the bootstrap takes it for
    certain. Here its hits and false claims vary as if half a row more of each kind had been seen (Jeffreys), and their
    variances go through F1's derivatives (delta method).
    """
    support, claimed = Counter(truth), Counter(predicted)
    hits = Counter(label for label, guess in zip(truth, predicted, strict=True) if label == guess)
    present = [label for label in labels if support[label]]
    variance = 0.0
    for label in present:
        rows, hit, wrong = support[label], hits[label], claimed[label] - hits[label]
        rate, whole = (hit + 0.5) / (rows + 1), (rows + hit + wrong) ** 2
        variance += (2 * (rows + wrong) / whole) ** 2 * rows * rate * (1 - rate)
        variance += (2 * hit / whole) ** 2 * (wrong + 0.5)
    return float(-special.ndtri(alpha)) * sqrt(variance) / len(present)


def per_class(labels: Sequence[str], truth: Sequence[str], predicted: Sequence[str]) -> dict[str, dict[str, float]]:
    """Label -> precision, recall, f1, support; of labels with rows or predictions, in the labels' order."""
    support, claimed = Counter(truth), Counter(predicted)
    hits = Counter(label for label, guess in zip(truth, predicted, strict=True) if label == guess)
    return {
        label: {
            "precision": hits[label] / claimed[label] if claimed[label] else 0.0,
            "recall": hits[label] / support[label] if support[label] else 0.0,
            "f1": 2 * hits[label] / (support[label] + claimed[label]),
            "support": float(support[label]),
        }
        for label in labels
        if support[label] or claimed[label]
    }


def confusion(truth: Sequence[str], predicted: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    """(true, predicted, count) of all cells that are not zero, sorted."""
    return tuple(
        (label, guess, count) for (label, guess), count in sorted(Counter(zip(truth, predicted, strict=True)).items())
    )


def _known(labels: Sequence[str], rows: Sequence[Answered]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*map(plain, labels), *sorted(set(_truths(rows)))]))


def _truths(rows: Sequence[Answered]) -> list[str]:
    return [plain(row.truth) for row in rows]


def _predictions(labels: Sequence[str], rows: Sequence[Answered]) -> list[str]:
    known = set(labels)
    return [answer if (answer := plain(row.answer)) in known else NO_LABEL for row in rows]


def _one_hot(codes: dict[str, int], values: Sequence[str]) -> Floats:
    matrix = np.zeros((len(values), len(codes)))
    for row, value in enumerate(values):
        if value in codes:
            matrix[row, codes[value]] = 1
    return matrix
