"""The bootstrap of a statistic of independent rows, with BCa bounds.

Efron 1987, JASA 82:171, Better bootstrap confidence intervals (bias-corrected and accelerated: BCa)
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.floating[Any]]
Statistic = Callable[[Floats], Floats]
"""Weights of the rows [draws, rows] -> the statistic of each weighted sample [draws]."""


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of a statistic, and what BCa corrects their quantiles by.

    Attributes:
        point: The statistic of the rows as they are.
        sample: The statistic of each resample [draws].
        bias: z0, how far the point lies from the median of the resamples, in normal deviations.
        skew: Efron's acceleration, from leaving out each row in turn; nan when that changes nothing.
    """

    point: float
    sample: Floats
    bias: float
    skew: float

    @property
    def varies(self) -> bool:
        """Whether resampling says anything: some row's absence changes the statistic."""
        return not isnan(self.skew)

    def bca(self, level: float) -> float:
        """The one-sided BCa bound at a level: 0.01 is a lower bound at 99 %, 0.99 an upper one."""
        shifted = self.bias + float(special.ndtri(level))
        return self.percentile(float(special.ndtr(self.bias + shifted / (1 - self.skew * shifted))))

    def percentile(self, level: float) -> float:
        """The plain quantile of the resamples."""
        return float(np.quantile(self.sample, level))


def bootstrap(statistic: Statistic, rows: int, *, draws: int, seed: int) -> Bootstrap:
    """Resample a statistic; nothing is drawn when no row's absence changes it."""
    point = float(statistic(np.ones((1, rows)))[0])
    skew = _acceleration(_jackknife(statistic, rows))
    if isnan(skew):
        return Bootstrap(point, np.array([point]), 0.0, skew)
    sample = _resamples(statistic, rows, draws, seed)
    below = float(np.mean(sample < point) + np.mean(sample == point) / 2)  # ties count half: rates are coarse
    return Bootstrap(point, sample, float(special.ndtri(min(max(below, 1 / draws), 1 - 1 / draws))), skew)


def _jackknife(statistic: Statistic, rows: int, block: int = 256) -> Floats:
    """The statistic without each row in turn [rows]; in blocks, since all weights at once are rows squared."""
    values = []
    for start in range(0, rows, block):
        out = np.arange(start, min(start + block, rows))
        weights = np.ones((len(out), rows))
        weights[np.arange(len(out)), out] = 0
        values.append(statistic(weights))
    return np.concatenate(values)


def _acceleration(without: Floats) -> float:
    influence = without.mean() - without
    spread = float((influence**2).sum())
    if len(without) < 2 or spread < 1e-24:
        return nan
    return float((influence**3).sum() / (6 * spread**1.5))


def _resamples(statistic: Statistic, rows: int, draws: int, seed: int, block: int = 250) -> Floats:
    random = np.random.default_rng(seed)
    values = []
    for start in range(0, draws, block):
        picks = random.integers(0, rows, size=(min(block, draws - start), rows))
        offsets = np.arange(len(picks))[:, None] * rows
        counts = np.bincount((picks + offsets).ravel(), minlength=len(picks) * rows)
        values.append(statistic(counts.reshape(len(picks), rows).astype(float)))
    return np.concatenate(values)
