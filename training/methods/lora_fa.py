"""LoRA-FA: LoRA whose A stays as it was drawn (Zhang et al. 2023, arXiv 2308.03303).

Then backward needs `A x` of every product, `[tokens, rank]`, where LoRA keeps the far wider x for A's gradient.
"""

from typing import Any

from moatelier.contracts import TrainSpec
from training.methods import lora
from training.methods.tuner import config, restore, weights

__all__ = ["attach", "config", "restore", "weights"]


def attach(model: Any, spec: TrainSpec, first_layer: int) -> Any:
    """As `lora.attach`; of the adapters only B is tuned."""
    adapted = lora.attach(model, spec, first_layer)
    for layer in lora.adapted_layers(adapted):
        layer.lora_A["default"].weight.requires_grad_(False)
    return adapted
