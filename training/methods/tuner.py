"""What PEFT's methods share: wrapping a model, its adapter's tensors by PEFT's names, and its configuration."""

from typing import Any

import torch
from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from moatelier.contracts import TrainSpec
from moatelier.errors import IntegrityError, InvalidRequest
from moatelier.ids import canonical_json
from modalities.text.config import lora_targets


def in_blocks(model: Any, first_layer: int) -> dict[str, Any]:
    """What a configuration says to adapt all linear layers of a causal model's blocks from `first_layer` up."""
    return {
        "target_modules": list(lora_targets(model.config.model_type)),
        "layers_to_transform": list(range(first_layer, len(model.get_decoder().layers))),
        "layers_pattern": "layers",
        "task_type": "CAUSAL_LM",
    }


def wrap(model: Any, spec: TrainSpec, config: PeftConfig) -> Any:
    """PEFT's model around one of any modality, with fresh adapters in float32; the rest is frozen.

    Args:
        model: It is changed in place.
        spec: Gives the seed of what is drawn.
        config: Which adapters, and where.

    Raises:
        InvalidRequest: A layer to adapt is a head that shares its weight with the embeddings.
    """
    _refuse_tied_head(model, config)
    torch.manual_seed(spec.seed)
    return get_peft_model(model, config, autocast_adapter_dtype=True)


def weights(model: Any) -> dict[str, Tensor]:
    """The adapter's tensors on the CPU, named as PEFT saves them."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}


def restore(model: Any, weights: dict[str, Tensor]) -> None:
    """Put the adapter's tensors back.

    Raises:
        IntegrityError: A tensor is missing or one too many.
    """
    expected = get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    if wrong := sorted(expected ^ weights.keys()):
        raise IntegrityError(
            f"{len(wrong)} tensors do not belong to the adapter or are missing.",
            where=wrong[0],
            remedy="Start the training anew.",
        )
    set_peft_model_state_dict(model, weights)


def config(model: Any, base: str, **changes: Any) -> bytes:
    """`adapter_config.json` in canonical form; `base` stands in it for the local path of the base."""
    fields = model.peft_config["default"].to_dict()
    fields |= {"base_model_name_or_path": base, "inference_mode": True, **changes}
    return canonical_json({name: _plain(value) for name, value in fields.items()})


def _refuse_tied_head(model: Any, config: PeftConfig) -> None:
    """peft#2321, peft#1388, peft#2018: a merge would change the embeddings too."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find else None
    targets = getattr(config, "target_modules", None) or ()
    if head is None or isinstance(targets, str) or head.weight is not model.get_input_embeddings().weight:
        return
    name = next(name for name, module in model.named_modules() if module is head)
    if name in targets:
        raise InvalidRequest(
            "The model's head shares its weight with the embeddings and cannot take an adapter.",
            where=name,
            remedy="Adapt the linear layers of the blocks only.",
        )


def _plain(value: Any) -> Any:
    # Sets have no order of their own, and the digest of the bundle depends on it.
    return sorted(value) if isinstance(value, set) else value
