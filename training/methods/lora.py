"""LoRA: `W x + (alpha / rank) B A x` with B = 0 at the start (Hu et al. 2021, arXiv 2106.09685), by PEFT.

PEFT makes, names and saves the adapters. Where nothing is dropped the product is our own: it adds the low-rank part in
place, where PEFT's passes over the tokens several times more and, beside a base in bfloat16, keeps a copy of them in
float32 for every product.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from moatelier.contracts import TrainSpec
from moatelier.errors import IntegrityError
from moatelier.ids import canonical_json
from modalities.text.config import lora_targets


def attach(model: Any, spec: TrainSpec, first_layer: int) -> Any:
    """Put fresh adapters in float32 on all linear layers of the blocks from `first_layer` up; the rest is frozen.

    Args:
        model: A causal model of transformers; it is changed in place.
        spec: Gives rank, alpha, dropout and the seed of A.
        first_layer: Index of the lowest block that gets adapters.

    Returns:
        The PEFT model around it.
    """
    blocks = len(model.get_decoder().layers)
    adapted = adapt(
        model,
        spec,
        list(lora_targets(model.config.model_type)),
        layers_to_transform=list(range(first_layer, blocks)),
        layers_pattern="layers",
        task_type="CAUSAL_LM",
    )
    for layer in adapted.modules():
        if isinstance(layer, LoraLinear) and _can_fuse(layer):
            layer.forward = partial(_fused, layer)
    return adapted


def adapt(model: Any, spec: TrainSpec, targets: Sequence[str], **fields: Any) -> Any:
    """PEFT's model around one of any modality, with fresh adapters in float32 on some of its layers.

    Args:
        model: It is changed in place.
        spec: Gives rank, alpha, dropout and the seed of A.
        targets: Names of the layers.
        fields: More of PEFT's configuration.
    """
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=targets,
        bias="none",
        **fields,
    )
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


@contextmanager
def silenced(model: Any) -> Iterator[None]:
    """Let the adapter add nothing, so that the model is its base."""
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLinear)]
    scales = [dict(layer.scaling) for layer in layers]
    for layer in layers:
        layer.scaling.update(dict.fromkeys(layer.scaling, 0.0))
    try:
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling.update(scale)


def config(model: Any, base: str) -> bytes:
    """PEFT's `adapter_config.json` in canonical form; `base` stands in it for the local path of the base."""
    fields = model.peft_config["default"].to_dict()
    fields |= {"base_model_name_or_path": base, "inference_mode": True}
    return canonical_json({name: _plain(value) for name, value in fields.items()})


class _Product(torch.autograd.Function):
    """`x W^T + bias + scale (x A^T) B^T` with W frozen; `x` is `[..., in]`, A `[rank, in]`, B `[out, rank]`.

    A and B are in their own type, and so is what is computed with them, as in PEFT.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.flatten(0, -2)
        low = rows.to(a.dtype) @ a.T
        ctx.save_for_backward(rows, weight, a, b, low)
        ctx.scale, ctx.shape = scale, x.shape
        product = _add(nn.functional.linear(rows, weight, bias), low, b.T, scale)
        return product.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, a, b, low = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)
        full = grad.to(a.dtype)
        grad_low = (full @ b).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = _add(grad @ weight, grad_low, a, 1.0).view(ctx.shape)
        return grad_x, None, None, grad_low.T @ rows.to(a.dtype), (low.T @ full).mul_(ctx.scale).T, None


def _add(product: Tensor, left: Tensor, right: Tensor, scale: float) -> Tensor:
    """`product + scale * left @ right`, in place; rounded once where the product is in a smaller type."""
    if product.dtype == left.dtype:
        return product.addmm_(left, right, alpha=scale)
    return product.add_(left @ right, alpha=scale)


def _can_fuse(layer: Any) -> bool:
    return type(layer.base_layer) is nn.Linear and isinstance(layer.lora_dropout["default"], nn.Identity)


def _fused(layer: Any, x: Tensor) -> Tensor:
    base, a, b = layer.base_layer, layer.lora_A["default"].weight, layer.lora_B["default"].weight
    product: Tensor = _Product.apply(x, base.weight, base.bias, a, b, layer.scaling["default"])
    return product


def _plain(value: Any) -> Any:
    # Sets have no order of their own, and the digest of the bundle depends on it.
    return sorted(value) if isinstance(value, set) else value
