"""QLoRA: LoRA on a base rounded to NF4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314).

What is rounded are the layers that get adapters: the blocks below run once, exactly, and their output is kept. The
adapter is served on the base that the engine holds, in whatever precision that is.
"""

from typing import Any

from peft.tuners.lora import Linear as LoraLinear
from torch import nn

from moatelier.contracts import TrainSpec
from moatelier.errors import InvalidRequest
from training.methods import lora
from training.methods.tuner import config, restore, weights
from training.nf4 import NF4Linear

__all__ = ["attach", "config", "restore", "weights"]


def attach(model: Any, spec: TrainSpec, first_layer: int) -> Any:
    """As `lora.attach`, and the layers' own weights in NF4.

    Raises:
        InvalidRequest: A layer is no plain linear layer in floating point.
    """
    adapted = lora.attach(model, spec, first_layer)
    for name, layer in adapted.named_modules():
        if isinstance(layer, LoraLinear):
            layer.base_layer = _rounded(name, layer.base_layer)
            vars(layer).pop("forward", None)  # the fused product would keep the weight for backward
    return adapted


def _rounded(name: str, layer: nn.Module) -> NF4Linear:
    if type(layer) is not nn.Linear or not layer.weight.is_floating_point():
        raise InvalidRequest(
            f"A layer of type {type(layer).__name__} cannot be rounded to NF4.",
            where=name,
            remedy="Use `lora`, or a base that is not quantised yet.",
        )
    return NF4Linear(layer)
