"""Activated LoRA: LoRA that acts from a sequence of tokens on (Greenewald et al. 2025, arXiv 2504.12397).

What comes before, the whole prompt when the sequence opens the assistant's turn, is the base's own, so its keys and
values serve every such adapter and the base alike. PEFT names, saves and runs these adapters too.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor

from moatelier.contracts import TrainSpec
from moatelier.errors import InvalidRequest
from training import acting
from training.methods import lora
from training.methods.lora import config, restore, weights

__all__ = ["activate_by", "attach", "config", "restore", "weights"]


def attach(model: Any, spec: TrainSpec, first_layer: int) -> Any:
    """As `lora.attach`; the adapters act where `training.acting` says."""
    adapted = lora.attach(model, spec, first_layer)
    for layer in adapted.modules():
        if isinstance(layer, LoraLinear):
            layer.forward = partial(_acting, layer)
    return adapted


def activate_by(model: Any, tokens: Sequence[int]) -> None:
    """Write down the tokens from which on the adapter acts; PEFT and the engine look for their last occurrence.

    Raises:
        InvalidRequest: There are none.
    """
    if not tokens:
        raise InvalidRequest(
            "The base's chat template has no tokens that open an answer, from which on the adapter would act.",
            where="method",
            remedy="Use `lora`.",
        )
    model.peft_config["default"].alora_invocation_tokens = list(tokens)


def _acting(layer: Any, x: Tensor) -> Tensor:
    a, b = layer.lora_A["default"], layer.lora_B["default"]
    product: Tensor = layer.base_layer(x)
    part = b(a(layer.lora_dropout["default"](x.to(a.weight.dtype)))) * layer.scaling["default"]
    mask = acting.mask(x)
    if mask is not None:
        part = part * mask.to(part.dtype)
    return product.add(part.to(product.dtype))
