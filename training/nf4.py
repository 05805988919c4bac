"""NF4 with double quantisation: frozen linear layers of 4.13 bits a weight (Dettmers et al. 2023, arXiv 2305.14314).

A weight is one of 16 quantiles of a normal distribution times its block's largest absolute value; those are in turn
8 bits each, about their mean, with a scale for 256 of them. Plain torch, so it runs wherever torch does.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 64
"""Weights that share a largest value."""
GROUP = 256
"""Largest values that share a scale."""
_LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


class NF4Linear(nn.Module):
    """`x W^T + bias` with W rounded to NF4; nothing in it is trained.

    Args:
        layer: A linear layer; its weight is not changed and need not be kept.
    """

    packed: Tensor
    """Two weights a byte, in the order of the rows."""
    largest: Tensor
    scales: Tensor
    mean: Tensor
    pairs: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        self.in_features, self.out_features, self.dtype = layer.in_features, layer.out_features, weight.dtype
        flat = weight.float().flatten()
        blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
        largest = blocks.abs().amax(1)
        self.register_buffer("mean", largest.mean())
        rest = F.pad(largest - self.mean, (0, -len(largest) % GROUP)).view(-1, GROUP)
        self.register_buffer("scales", (rest.abs().amax(1) / 127).clamp(min=1e-12))
        eighths = (rest / self.scales[:, None]).round().to(torch.int8).flatten()[: len(largest)].clone()
        self.register_buffer("largest", eighths)
        levels = torch.tensor(_LEVELS, device=weight.device)
        codes = torch.bucketize(blocks / self._largest()[:, None], (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
        self.register_buffer("packed", codes.view(-1, 2) @ codes.new_tensor([16, 1]))
        # Both weights of every possible byte.
        self.register_buffer("pairs", torch.cartesian_prod(levels, levels), persistent=False)
        self.bias = layer.bias

    @property
    def bytes(self) -> int:
        """What the weight takes."""
        return sum(kept.nbytes for kept in (self.packed, self.largest, self.scales, self.mean))

    @property
    def weight(self) -> Tensor:
        """W as it is multiplied with, `[out, in]`, made anew at every call."""
        blocks = self.pairs[self.packed.int()].view(-1, BLOCK) * self._largest()[:, None]
        size = self.out_features * self.in_features
        return blocks.flatten()[:size].view(self.out_features, self.in_features).to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """X `[..., in]`; gives `[..., out]`."""
        product: Tensor = _Frozen.apply(x, self)
        return product

    def _largest(self) -> Tensor:
        scales = self.scales.repeat_interleave(GROUP)[: len(self.largest)]
        return (self.largest * scales + self.mean).clamp(min=1e-12)


class _Frozen(torch.autograd.Function):
    """The product, which makes the weight once more for backward and does not keep it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        return (grads[0] @ ctx.layer.weight if ctx.needs_input_grad[0] else None), None
