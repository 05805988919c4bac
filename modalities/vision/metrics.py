"""Scores of images: top-k, macro-F1, retrieval both ways, calibration. Points only; intervals are evals' own."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import f1_score, top_k_accuracy_score

from moatelier.errors import DataError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def top_k(probabilities: Floats, targets: Integers, k: int) -> float:
    """The share of rows whose label is among the k likeliest.

    Args:
        probabilities: `[rows, labels]`; any scores that grow with them do.
        targets: `[rows]`, indices of labels.
        k: With as many labels or fewer it is 1.

    Raises:
        DataError: There are no rows, or a shape or an index does not fit.
    """
    _check(probabilities, targets)
    labels = probabilities.shape[1]
    if k >= labels:
        return 1.0
    if labels == 2:  # scikit-learn wants one score a row for two labels
        return float((probabilities.argmax(axis=1) == targets).mean())
    return float(top_k_accuracy_score(targets, probabilities, k=k, labels=np.arange(labels)))


def macro_f1(probabilities: Floats, targets: Integers) -> float:
    """The mean F1 over the labels that have rows, as `evals.scorers` has it. Raises like `top_k`."""
    _check(probabilities, targets)
    present = np.unique(targets)
    predicted = probabilities.argmax(axis=1)
    return float(f1_score(targets, predicted, labels=present, average="macro", zero_division=0))


def calibration_error(probabilities: Floats, targets: Integers, bins: int = 15) -> float:
    """Expected calibration error: how far confidence and accuracy lie apart, over bins of equal width.

    Naeini, Cooper and Hauskrecht, 2015; Guo et al. 2017, https://arxiv.org/abs/1706.04599. With few rows it is biased
    upwards: compare it between models on the same rows.

    Args:
        probabilities: `[rows, labels]`, each row sums to 1.
        targets: `[rows]`, indices of labels.
        bins: How many.

    Raises:
        DataError: Like `top_k`, or the rows are no probabilities.
    """
    _check(probabilities, targets)
    if probabilities.min() < 0 or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise DataError("These are no probabilities: a row does not sum to 1.", where="probabilities")
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.abs(np.bincount(number, weights=right - confidence, minlength=bins))
    return float(gaps.sum() / len(targets))


def recall_at(similarity: Floats, images: Sequence[str], captions: Sequence[str], k: int) -> tuple[float, float]:
    """Recall@k from images to captions and from captions to images.

    A query counts when one of its partners is among the k most similar; what is as similar as a partner stands before
    it, so that a model which tells nothing apart finds nothing.

    Args:
        similarity: `[images, captions]`.
        images: What each image shows, such as its pixel digest: an image may have several captions.
        captions: For each caption the same of its image.
        k: How many may be looked at.

    Raises:
        DataError: A shape does not fit, or an image or caption has no partner.
    """
    if similarity.shape != (len(images), len(captions)) or not similarity.size:
        raise DataError(f"The similarities have the shape {similarity.shape}.", where=f"{len(images)}, {len(captions)}")
    partners = np.array(images)[:, None] == np.array(captions)[None, :]
    if not (partners.any(axis=1).all() and partners.any(axis=0).all()):
        raise DataError("An image or caption has no partner.", where="captions")
    return _recall(similarity, partners, k), _recall(similarity.T, partners.T, k)


def _recall(similarity: Floats, partners: npt.NDArray[np.bool_], k: int) -> float:
    best = np.where(partners, similarity, -np.inf).max(axis=1, keepdims=True)
    before = ((similarity >= best) & ~partners).sum(axis=1)
    return float((before < k).mean())


def _check(probabilities: Floats, targets: Integers) -> None:
    rows = len(targets)
    if not rows or probabilities.ndim != 2 or len(probabilities) != rows:
        raise DataError(f"There are {rows} rows and scores of the shape {probabilities.shape}.", where="probabilities")
    if targets.min() < 0 or targets.max() >= probabilities.shape[1] or not np.isfinite(probabilities).all():
        raise DataError("A label is out of range, or a score is not finite.", where="targets")
