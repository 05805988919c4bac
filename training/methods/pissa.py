"""PiSSA: LoRA that starts from a layer's largest singular values (Meng et al. 2024, arXiv 2404.02948), by PEFT.

While it is trained the layer holds what is left of its weight. For its bundle the adapter is written as an ordinary one
of twice the rank, `B A - B0 A0`, which runs on the base as it is; PEFT converts it in the same way.
"""

from typing import Any

import torch
from torch import Tensor

from moatelier.contracts import TrainSpec
from moatelier.errors import InvalidRequest
from training.methods import lora, tuner
from training.methods.tuner import restore, weights

__all__ = ["attach", "config", "restore", "sealed", "weights"]

_INIT = "pissa_niter_16"
"""A fast decomposition that the paper found as good as the exact one; random, from the spec's seed."""


def attach(model: Any, spec: TrainSpec, first_layer: int) -> Any:
    """As `lora.attach`; A and B are a part of the weight, which is taken out of it.

    Raises:
        InvalidRequest: A layer has fewer singular values than the rank.
    """
    where = tuner.in_blocks(model, first_layer)
    block = model.get_decoder().layers[first_layer]
    narrowest = min(min(m.weight.shape) for n, m in block.named_modules() if n.endswith(tuple(where["target_modules"])))
    if spec.rank > narrowest:
        raise InvalidRequest(
            f"PiSSA of rank {spec.rank} does not fit: the narrowest layer has {narrowest} singular values.",
            where="rank",
            remedy=f"Use a rank of at most {narrowest}.",
        )
    adapted = lora.attach(model, spec, first_layer, init_lora_weights=_INIT)
    adapted.began = {name: tensor.clone() for name, tensor in weights(adapted).items()}
    return adapted


def sealed(model: Any, _: torch.dtype) -> dict[str, Tensor]:
    """The adapter as an ordinary one of twice the rank."""
    both: dict[str, Tensor] = {}
    for name, tensor in weights(model).items():
        began = model.began[name]
        both[name] = torch.cat([tensor, began]) if "lora_A" in name else torch.cat([tensor, -began], dim=1)
    return both


def config(model: Any, base: str) -> bytes:
    """See `tuner.config`; of what `sealed` gives."""
    own = model.peft_config["default"]
    return tuner.config(model, base, r=2 * own.r, lora_alpha=2 * own.lora_alpha, init_lora_weights=True)
