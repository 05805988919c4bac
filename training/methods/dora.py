"""DoRA: `m (W + s B A) / |W + s B A|`, magnitude and direction apart (Liu et al. 2024, arXiv 2402.09353), by PEFT.

The norm is a row's, and m starts as it, so that at step 0 nothing is changed. As in the paper no gradient goes through
the norm.
"""

from typing import Any

from moatelier.contracts import TrainSpec
from training.methods import lora
from training.methods.tuner import config, restore, weights

__all__ = ["attach", "config", "restore", "weights"]


def attach(model: Any, spec: TrainSpec, first_layer: int) -> Any:
    """As `lora.attach`, with a magnitude for every output."""
    return lora.attach(model, spec, first_layer, use_dora=True)
