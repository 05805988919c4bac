"""From cosines to probabilities that can be believed, and how far they are from being so.

Platt 1999, Probabilistic outputs for support vector machines    a logistic curve, targets short of 0 and 1
Guo et al. 2017, On calibration of modern neural networks        one temperature; expected calibration error
"""

from collections.abc import Callable
from math import exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moatelier.contracts import Calibration

Floats = NDArray[np.floating[Any]]
OUT_SHARE = 0.1
"""The share of requests that belong to no adapter, as the calibration assumes it: nobody knows it beforehand.

A higher one sends more rows of the domains to the base, and more of what belongs to no adapter too. Cross-validated on
training rows of banking77 in six narrow domains (`benchmarks/router.py --choose`), of the domains' rows 0.9 % go there
at 0.05, 1.5 % at 0.1, 2.5 % at 0.2; of rows whose own adapter is missing 57 %, 71 %, 82 %.
"""
BINS = 10
_TEMPERATURES = (0.005, 1.0)
_WIDTHS = (0.002, 0.5)
_GOLDEN = (5**0.5 - 1) / 2


def probabilities(scores: Floats, calibration: Calibration) -> Floats:
    """Calibrated probabilities `[rows, adapters + 1]` of cosines `[rows, adapters]`; the last column is the base's.

    Each row sums to 1. Without adapters all of it is the base's.
    """
    if not scores.shape[1]:
        return np.ones((len(scores), 1))
    best = scores.max(axis=1, keepdims=True)
    shares = np.exp((scores - best).astype(np.float64) / calibration.temperature)
    shares /= shares.sum(axis=1, keepdims=True)
    inside = _sigmoid((best.astype(np.float64) - calibration.threshold) / calibration.width)
    return np.hstack([shares * inside, 1 - inside])


def fit(
    scores: Floats, owners: NDArray[np.intp], far: Floats, near: Floats | None = None, *, out_share: float = OUT_SHARE
) -> Calibration:
    """Fit temperature, threshold and width.

    Args:
        scores: Cosines of held-out rows with each adapter `[rows, adapters]`.
        owners: The adapter that each row belongs to `[rows]`.
        far: Best cosines of texts that belong to nobody `[out]`.
        near: Best cosines of the held-out rows when their own adapter is taken away `[rows]`; far and near rows weigh
            the same. None with a single adapter.
        out_share: The share of requests that belong to no adapter.
    """
    out = [part for part in (far, near) if part is not None and len(part)]
    known = Calibration(rows=len(scores), out_rows=sum(map(len, out)))
    if len(scores) and scores.shape[1] > 1:
        known = known.model_copy(update={"temperature": _temperature(scores, owners)})
    if not len(scores) or not out:
        return known
    threshold, width = _curve(scores[np.arange(len(scores)), owners], out, out_share)
    return known.model_copy(update={"threshold": threshold, "width": width})


def _temperature(scores: Floats, owners: NDArray[np.intp]) -> float:
    """The temperature that gives held-out rows the highest likelihood; targets stop short of 1, as Platt's do."""
    rows, adapters = scores.shape
    sure = (rows + 1) / (rows + 2)
    centred = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    own = centred[np.arange(rows), owners]
    others = (centred.sum(axis=1) - own) / (adapters - 1)

    def loss(log_temperature: float) -> float:
        scale = exp(-log_temperature)
        return float(np.mean(np.log(np.exp(centred * scale).sum(axis=1)) - scale * (sure * own + (1 - sure) * others)))

    return exp(_lowest(loss, log(_TEMPERATURES[0]), log(_TEMPERATURES[1])))


def _lowest(loss: Callable[[float], float], low: float, high: float) -> float:
    """Golden-section search of a function with one valley."""
    while high - low > 1e-4:
        step = _GOLDEN * (high - low)
        if loss(high - step) <= loss(low + step):
            high = low + step
        else:
            low = high - step
    return (low + high) / 2


def _curve(inside: Floats, out: list[Floats], out_share: float) -> tuple[float, float]:
    """Threshold and width of the logistic curve between rows of the domains and texts of none."""
    cosines = np.concatenate([inside, *out]).astype(np.float64)
    count_in, count_out = len(inside), sum(map(len, out))
    targets = np.concatenate(
        [np.full(count_in, (count_in + 1) / (count_in + 2)), np.full(count_out, 1 / (count_out + 2))]
    )
    weights = [np.full(count_in, (1 - out_share) / count_in)]
    weights += [np.full(len(part), out_share / len(out) / len(part)) for part in out]
    weight = np.concatenate(weights)
    middle, scale = float(np.median(cosines)), float(cosines.std()) or 1.0
    slope, shift = _logistic((cosines - middle) / scale, targets, weight)
    slope = float(np.clip(slope, scale / _WIDTHS[1], scale / _WIDTHS[0]))
    width = scale / slope
    return middle - shift * width, width


def _logistic(x: Floats, targets: Floats, weights: Floats) -> tuple[float, float]:
    """Slope and shift of a weighted logistic regression by damped Newton steps."""
    design = np.stack([x, np.ones_like(x)], axis=1)
    found = np.array([1.0, 0.0])
    ridge = np.diag([1e-4, 1e-6])

    def loss(at: Floats) -> float:
        logits = design @ at
        return float(weights @ (np.logaddexp(0, logits) - targets * logits) + at @ ridge @ at / 2)

    for _ in range(60):
        chance = _sigmoid(design @ found)
        gradient = design.T @ (weights * (chance - targets)) + ridge @ found
        curvature = (design * (weights * chance * (1 - chance))[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-6 and loss(found - size * step) > loss(found):
            size /= 2
        found = found - size * step
        if np.abs(size * step).max() < 1e-8:
            break
    return float(found[0]), float(found[1])


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


def expected_error(confidence: Floats, right: NDArray[np.bool_], weights: Floats | None = None) -> float:
    """Expected calibration error over ten bins of equal width: mean distance of confidence and share right.

    Args:
        confidence: Stated probabilities `[rows]`.
        right: What happened `[rows]`.
        weights: Of the rows; default: all alike.
    """
    weight = np.ones(len(confidence)) if weights is None else weights
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=weight * (confidence - right), minlength=BINS)
    return float(np.abs(gaps).sum() / weight.sum())


def auroc(inside: Floats, outside: Floats) -> float:
    """The probability that a row of a domain scores above one of none; ties count half."""
    both = np.concatenate([inside, outside])
    values, places, counts = np.unique(both, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    ranks = mean_rank[places[: len(inside)]].sum()
    return float((ranks - len(inside) * (len(inside) + 1) / 2) / (len(inside) * len(outside)))
