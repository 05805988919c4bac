"""rsLoRA: LoRA whose product is scaled by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732), by PEFT.

With LoRA's alpha / rank the gradients shrink as the rank grows, so that high ranks learn no more than low ones.
"""

from typing import Any

from moatelier.contracts import TrainSpec
from training.methods import lora
from training.methods.tuner import config, restore, weights

__all__ = ["attach", "config", "restore", "weights"]


def attach(model: Any, spec: TrainSpec, first_layer: int) -> Any:
    """As `lora.attach`, with the other scale."""
    return lora.attach(model, spec, first_layer, use_rslora=True)
