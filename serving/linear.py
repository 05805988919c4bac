"""Linear layers in the deployment's precision: float32 or bfloat16 as they are, int8 by row, int4 by groups.

The integer kernels are PyTorch's own (`_weight_int8pack_mm`, `_weight_int4pack_mm_for_cpu`); they take bfloat16 rows.
Scales are bfloat16 too, so even weights that come from a 4-bit file are rounded once more (0.26 % relative error).
"""

from functools import cache
from typing import Literal, Protocol

import torch
from torch.nn import functional as F

from moatelier.errors import ModelUnavailable

ServingPrecision = Literal["bf16", "fp32", "int8", "int4"]
GROUP = 32
"""Weights that share a scale in int4, as in GGUF's Q4 formats."""
WIDE = 9
"""Rows from which bfloat16 is faster, on machines with units for it: the integer kernels take four rows at a time."""
_OUT_MULTIPLE = 64
_TOLERANCE = {"int8": 0.02, "int4": 0.15}


class Linear(Protocol):
    """`x W^T + bias` for x `[rows, in]`; gives `[rows, out]` in the type of x."""

    bytes: int
    bias: torch.Tensor | None

    @property
    def weight(self) -> torch.Tensor:
        """What it multiplies with, `[out, in]`."""
        ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The product."""
        ...


class Dense:
    """Weights as they are, `[out, in]`."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.bytes = weight.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Linear`."""
        return F.linear(x, self.weight, self.bias)


class Int8:
    """One scale an output row, symmetric: `W ~ q * scale`, q in -127..127."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        rows = weight.float()
        # The kernel reads the scale as bfloat16, so the weights are rounded with that very number.
        scale = (rows.abs().amax(dim=1).clamp(min=1e-8) / 127).bfloat16()
        self._codes = (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
        self._scale, self.bias = scale, bias
        self.bytes = self._codes.nbytes + scale.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Linear`."""
        return _plus(self.product(x), self.bias)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """`x W^T`."""
        product: torch.Tensor = torch.ops.aten._weight_int8pack_mm(x.bfloat16(), self._codes, self._scale)
        return product.to(x.dtype)

    @property
    def weight(self) -> torch.Tensor:
        """See `Linear`."""
        return self._codes.float() * self._scale.float()[:, None]


class Int4:
    """Scale and zero a group of `GROUP` weights: `W ~ (q - 8) * scale + zero`, q in 0..15.

    Raises:
        ModelUnavailable: Rows whose length is no multiple of `GROUP`.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._out, width = weight.shape
        self._width, self._device = width, weight.device
        if width % GROUP:
            raise ModelUnavailable(
                f"int4 needs layers whose width is a multiple of {GROUP}; this base has one of {width}.",
                where="MOATELIER_PRECISION",
                remedy="Use int8, bf16 or fp32.",
            )
        padded = F.pad(weight.float(), (0, 0, 0, -self._out % _OUT_MULTIPLE))
        groups = padded.view(len(padded), -1, GROUP)
        least, most = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        scale = ((most - least) / 15).clamp(min=1e-8).bfloat16()
        zero = (least + 8 * scale.float()).bfloat16()
        codes = ((groups - zero.float()) / scale.float() + 8).round().clamp(0, 15).to(torch.int32)
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.flatten(1), 1)
        self._scales = torch.cat([scale, zero], dim=-1).transpose(0, 1).contiguous()
        self.bias = bias
        self.bytes = self._packed.nbytes + self._scales.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Linear`."""
        return _plus(self.product(x), self.bias)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """`x W^T`."""
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.bfloat16(), self._packed, GROUP, self._scales
        )
        return product[:, : self._out].to(x.dtype)

    @property
    def weight(self) -> torch.Tensor:
        """See `Linear`."""
        # What the kernel says of every unit vector are the very numbers that it multiplies with.
        return self.product(torch.eye(self._width, dtype=torch.bfloat16, device=self._device)).T


class Wide:
    """An integer layer, with its rounded weights once more in bfloat16 for passes over many tokens.

    Args:
        weight: `[out, in]`.
        bias: `[out]`, or none.
        kind: The integer layer.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, kind: "type[Int4] | type[Int8]") -> None:
        self._narrow = kind(weight, bias)
        self._dense = Dense(self._narrow.weight.bfloat16().contiguous(), bias)
        self.bytes, self.bias = self._narrow.bytes + self._dense.bytes, bias

    @property
    def weight(self) -> torch.Tensor:
        """See `Linear`."""
        return self._dense.weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Linear`."""
        return self._narrow(x) if len(x) < WIDE else self._dense(x)


def pack(weight: torch.Tensor, bias: torch.Tensor | None, precision: ServingPrecision, wide: bool = False) -> Linear:
    """A layer in this precision; `weight` `[out, in]` is in the type that the model computes in.

    With `wide` an integer layer keeps a copy for passes over many tokens, which must then be in bfloat16.

    Raises:
        ModelUnavailable: This machine has no kernel for the precision, or the layer's shape does not fit it.
    """
    if precision in ("bf16", "fp32"):
        return Dense(weight, bias)
    probe_kernel(precision, weight.device.type)
    kind = Int4 if precision == "int4" else Int8
    return Wide(weight, bias, kind) if wide else kind(weight, bias)


def _plus(product: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return product if bias is None else product + bias


@cache
def probe_kernel(precision: ServingPrecision, device: str) -> None:
    """Multiply once in int8 or int4 and compare with float32, so that a kernel that is missing or wrong shows at start.

    Raises:
        ModelUnavailable: It cannot be used here.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(128, 64, generator=generator).to(device)
    rows = torch.randn(5, 64, generator=generator).to(device)
    right = rows @ weight.T
    try:
        if device != "cpu":
            raise RuntimeError("the kernels are for the CPU")
        found = (Int4 if precision == "int4" else Int8)(weight, None)(rows)
        error = float((found - right).norm() / right.norm())
        problem = "" if error < _TOLERANCE[precision] else f"its results are off by {error:.0%}"
    except (RuntimeError, NotImplementedError, AttributeError) as failure:
        problem = str(failure).splitlines()[0]
    if problem:
        raise ModelUnavailable(
            f"{precision} cannot be used on this machine: {problem}.",
            where="MOATELIER_PRECISION",
            remedy="Use bf16 or fp32.",
        )
