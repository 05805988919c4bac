"""A linear probe: a logistic regression on a frozen tower's features, and the start of every other head.

Standardised features, an L2 penalty chosen by cross-validation on the training rows alone; the scaling is folded into
the head's weights.
"""

from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from moatelier.contracts import TrainSpec
from moatelier.errors import DataError
from training.methods.top_blocks import restore, sealed, weights

__all__ = ["attach", "config", "fit", "restore", "start_head", "weights"]

_STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Inverse penalties to choose from, of scikit-learn's kind: the loss is summed over the rows."""
_FOLDS = 3


def attach(model: Any, spec: TrainSpec, first_layer: int) -> Any:
    """Leave nothing but the head to be tuned; `first_layer` has no meaning here."""
    model.requires_grad_(False)
    model.class_head.requires_grad_(True)
    return model


def config(model: Any, base: str) -> bytes:
    """`adapter_config.json` in canonical form."""
    return sealed("linear_probe", base, model)


def start_head(model: Any, features: Tensor, targets: Tensor, seed: int = 0) -> None:
    """Set a classifier's head to the probe of these features. Raises like `fit`."""
    weight, bias = fit(features, targets, model.class_head.out_features, seed)
    with torch.no_grad():
        model.class_head.weight.copy_(weight)
        model.class_head.bias.copy_(bias)


def fit(features: Tensor, targets: Tensor, labels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Fit the probe.

    Args:
        features: `[rows, width]`.
        targets: `[rows]`, the index of each row's label.
        labels: How many there are; each must have a row.
        seed: Of the folds.

    Returns:
        Weight `[labels, width]` and bias `[labels]` in float32, whose softmax gives the probabilities.

    Raises:
        DataError: A label has no row, there is one label only, or the features are not finite.
    """
    x, y = features.detach().cpu().double().numpy(), targets.cpu().numpy()
    present = np.bincount(y, minlength=labels)
    if labels < 2 or present.min() == 0 or not np.isfinite(x).all():
        raise DataError(
            "A probe needs finite features, two labels and rows of each.",
            where=f"label {int(present.argmin())}: {int(present.min())} rows",
            remedy="Check the rows that were left for training.",
        )
    scaler = StandardScaler().fit(x)
    scaled = scaler.transform(x)
    model = LogisticRegression(C=_strength(scaled, y, int(present.min()), seed), max_iter=1000).fit(scaled, y)
    coefficients, intercept = model.coef_, model.intercept_
    if labels == 2:  # scikit-learn has one row for two labels
        coefficients, intercept = np.vstack([-coefficients, coefficients]) / 2, np.hstack([-intercept, intercept]) / 2
    weight = coefficients / scaler.scale_
    bias = intercept - weight @ scaler.mean_
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def _strength(x: Any, y: Any, fewest: int, seed: int) -> float:
    """The best of the strengths by cross-validation; the smallest of equals. With too few rows the middle one."""
    if fewest < _FOLDS:
        return 1e-3
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    scores = [
        cross_val_score(LogisticRegression(C=strength, max_iter=1000), x, y, cv=folds).mean() for strength in _STRENGTHS
    ]
    return _STRENGTHS[int(np.argmax(scores))]
