"""Full fine-tuning: the weights themselves, of the layers from a boundary up or of the whole model.

What is trained is kept in float32, whatever the base is in, and cast to the base's type where it is computed with: the
steps of a usual learning rate are smaller than what bfloat16 can tell apart (docs/adr/0008). A bundle holds the trained
layers' tensors under their names in the model, in the base's type.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from moatelier.contracts import TrainSpec
from moatelier.errors import InvalidRequest
from moatelier.ids import canonical_json
from modalities.text.config import WHOLE, lora_targets
from training.methods import whole


def attach(model: Any, spec: TrainSpec, first_layer: int) -> Any:
    """Make weights trainable, in float32; the rest is frozen.

    Args:
        model: A causal model of transformers; it is changed in place and returned.
        spec: With `layers` of `all`, embeddings, last norm and head are tuned too.
        first_layer: Index of the lowest block to tune.

    Raises:
        InvalidRequest: There is no such block.
        ModelUnavailable: Models of this type are not known to work.
    """
    lora_targets(model.config.model_type)
    blocks = len(model.get_decoder().layers)
    if not 0 <= first_layer < blocks:
        raise InvalidRequest(
            f"The model has no layer {first_layer}.", where="first_layer", remedy=f"Its layers are 0 to {blocks - 1}."
        )
    model.requires_grad_(False)
    chosen = model if spec.layers == "all" else nn.ModuleList(model.get_decoder().layers[first_layer:])
    for parameter in chosen.parameters():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    model.whole = tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return model


def computing(device: str, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """What to compute in: products in the base's type, though the weights are kept in float32."""
    return torch.autocast(device, dtype, enabled=dtype != torch.float32)


def tuned(model: Any) -> dict[str, nn.Parameter]:
    """What `attach` made trainable, by name."""
    named = dict(model.named_parameters())
    return {name: named[name] for name in model.whole}


def weights(model: Any) -> dict[str, Tensor]:
    """The tuned tensors on the CPU, in float32, named as in the model."""
    return whole.taken(tuned(model))


def sealed(model: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """What a bundle holds: the same in the base's type."""
    return {name: tensor.to(dtype) for name, tensor in weights(model).items()}


def restore(model: Any, weights: dict[str, Tensor]) -> None:
    """Put the tensors back, bit by bit.

    Raises:
        IntegrityError: A tensor is missing, one too many, or of another shape.
    """
    whole.put_back(tuned(model), weights)


def config(model: Any, base: str) -> bytes:
    """`adapter_config.json` in canonical form."""
    return described("full", model, base)


def described(method: str, model: Any, base: str, **more: Any) -> bytes:
    """What adapters of whole weights write where PEFT's have its configuration."""
    layers = [int(name.split(".")[2]) for name in model.whole if ".layers." in name]
    told = {
        WHOLE: True,
        "method": method,
        "base_model_name_or_path": base,
        "first_layer": min(layers),
        "tensors": len(model.whole),
        "parameters": sum(parameter.numel() for parameter in tuned(model).values()),
    }
    return canonical_json(told | more)
