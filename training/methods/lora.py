"""LoRA: `W x + (alpha / rank) B A x` with B = 0 at the start (Hu et al. 2021, arXiv 2106.09685), by PEFT.

PEFT makes, names and saves the adapters. Where nothing is dropped the product is our own: it adds the low-rank part in
place, and computes in the base's type, where PEFT's passes over the tokens several times more and, beside a base in
bfloat16, makes and keeps a copy of them in float32 for every product.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from moatelier.contracts import TrainSpec
from training.methods import tuner
from training.methods.tuner import config, restore, weights

__all__ = ["adapt", "adapted_layers", "attach", "config", "restore", "weights"]


def attach(model: Any, spec: TrainSpec, first_layer: int, **fields: Any) -> Any:
    """Put fresh adapters in float32 on all linear layers of the blocks from `first_layer` up; the rest is frozen.

    Args:
        model: A causal model of transformers; it is changed in place.
        spec: Gives rank, alpha, dropout and the seed of A.
        first_layer: Index of the lowest block that gets adapters.
        fields: More of PEFT's configuration, such as `use_rslora`.

    Returns:
        The PEFT model around it.

    Raises:
        InvalidRequest: A layer to adapt is a head that shares its weight with the embeddings.
    """
    where = tuner.in_blocks(model, first_layer)
    adapted = adapt(model, spec, where.pop("target_modules"), **where, **fields)
    for layer in adapted_layers(adapted):
        if _can_fuse(layer):
            layer.forward = partial(_fused, layer)
    return adapted


def adapt(model: Any, spec: TrainSpec, targets: Sequence[str], **fields: Any) -> Any:
    """PEFT's model around one of any modality, with fresh low-rank adapters in float32 on some of its layers.

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
    return tuner.wrap(model, spec, config)


def adapted_layers(model: Any) -> list[Any]:
    """The linear layers with low-rank adapters, in the model's order."""
    return [layer for layer in model.modules() if isinstance(layer, LoraLinear)]


@contextmanager
def silenced(model: Any) -> Iterator[None]:
    """Let the adapter add nothing, so that the model is its base."""
    layers = adapted_layers(model)
    scales = [dict(layer.scaling) for layer in layers]
    for layer in layers:
        layer.scaling.update(dict.fromkeys(layer.scaling, 0.0))
    try:
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling.update(scale)


class _Product(torch.autograd.Function):
    """`x W^T + bias + scale (x A^T) B^T` with W frozen; `x` is `[..., in]`, A `[rank, in]`, B `[out, rank]`.

    All is computed in the type of `x`, as under autocast: A and B, in float32, are rounded once a pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.flatten(0, -2)
        a, b = a.to(x.dtype), b.to(x.dtype)
        low = rows @ a.T
        # Only A's gradient needs the rows: where A is frozen they are not kept (LoRA-FA).
        ctx.save_for_backward(rows if ctx.needs_input_grad[3] else None, weight, a, b, low)
        ctx.scale, ctx.shape = scale, x.shape
        product = nn.functional.linear(rows, weight, bias).addmm_(low, b.T, alpha=scale)
        return product.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, a, b, low = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)
        grad_low = (grad @ b).mul_(ctx.scale)
        grad_x = (grad @ weight).addmm_(grad_low, a).view(ctx.shape) if ctx.needs_input_grad[0] else None
        grad_a = None if rows is None else (grad_low.T @ rows).float()
        return grad_x, None, None, grad_a, (low.T @ grad).float().mul_(ctx.scale).T, None


def product(layer: Any, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """An adapted layer's product with these factors, A `[rank, in]` and B `[out, rank]`, in place of its own."""
    base = layer.base_layer
    if _can_fuse(layer):
        fused: Tensor = _Product.apply(x, base.weight, base.bias, a, b, scale)
        return fused
    whole: Tensor = base(x)
    low = layer.lora_dropout["default"](x.to(a.dtype)) @ a.T @ b.T * scale
    return whole.add(low.to(whole.dtype))


def _can_fuse(layer: Any) -> bool:
    plain = type(layer.base_layer) is nn.Linear and not layer.use_dora["default"]
    return plain and isinstance(layer.lora_dropout["default"], nn.Identity)


def _fused(layer: Any, x: Tensor) -> Tensor:
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return product(layer, x, a, b, layer.scaling["default"])
