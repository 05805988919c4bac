"""LOMO: full fine-tuning whose update happens within back-propagation (Lv et al. 2023, arXiv 2306.09782).

A gradient is used and dropped as soon as it is known, so that never more than one exists, and there is no optimiser's
state: the steps are plain SGD's, see `training.fused`.
"""

from typing import Any

from training.methods import full
from training.methods.full import attach, computing, restore, sealed, weights

__all__ = ["attach", "computing", "config", "restore", "sealed", "weights"]


def config(model: Any, base: str) -> bytes:
    """`adapter_config.json` in canonical form."""
    return full.described("lomo", model, base)
