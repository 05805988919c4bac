"""The projector: what a vision base sees at each place becomes a vector of the language model's residual stream.

LLaVA 1.5's two layers (Liu et al. 2023, arXiv 2304.08485 and 2310.03744), with differences that a small budget asks
for: features are standardised by the training pictures, each place has an offset of its own, and the outer layer
begins solved rather than drawn, so that a picture's vectors resemble the states of the words that name it.
"""

from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, gelu

from modalities.imagetext.config import GRID
from modalities.machine import DTYPES
from modalities.vision.model import VisionBase

_PENALTY = 0.1
"""Of the ridge regression, as a share of the features' mean sum of squares. Tried from 0.001 to 10 on CIFAR-10: so the
mean of its vectors named most held-out pictures."""


class Projector(nn.Module):
    """Features `[rows, vectors, seen]` to states `[rows, vectors, width]`, in float32.

    Args:
        vectors: Places of a picture.
        seen: Width of the features.
        hidden: Width of the layer between.
        width: Of the language model's states.
    """

    mean: Tensor
    spread: Tensor
    scale: Tensor

    def __init__(self, vectors: int, seen: int, hidden: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(vectors, seen))
        self.register_buffer("spread", torch.ones(vectors, seen))
        self.register_buffer("scale", torch.ones(()))
        self.inner, self.outer = nn.Linear(seen, hidden), nn.Linear(hidden, width)
        self.offset = nn.Parameter(torch.zeros(vectors, width))

    def forward(self, seen: Tensor) -> Tensor:
        """See the class."""
        states: Tensor = (self.outer(self._inner(seen)) + self.offset) * self.scale
        return states

    def blind(self) -> Tensor:
        """What stands where no picture is seen, `[vectors, width]`: the mean of the training pictures' features."""
        states: Tensor = self(self.mean[None])
        return states[0]

    @torch.no_grad()
    def start(self, seen: Tensor, size: float, named: Tensor | None = None) -> None:
        """Fit to the training pictures, before the first step.

        Args:
            seen: Their features `[pictures, vectors, seen]`.
            size: Root mean square of the states among which the output will stand.
            named: `[pictures, width]`, states of the words that name each picture. Where they are given, the outer
                layer begins as a ridge regression onto them: what LLaVA's first stage learns from captions by steps.
        """
        features = seen.float()
        self.mean.copy_(features.mean(dim=0))
        # A channel that never moves is none to divide by.
        self.spread.copy_(features.std(dim=0, correction=0).clamp(min=1e-3))
        self.scale.fill_(size)
        self.outer.bias.zero_()
        if named is not None:
            weight, bias = _ridge(self._inner(features), named.float() / size)
            self.outer.weight.copy_(weight)
            self.outer.bias.copy_(bias)
            return
        now = self(features[:256]) / size
        self.outer.weight.div_(now.pow(2).mean().sqrt().clamp(min=1e-6))

    def _inner(self, seen: Tensor) -> Tensor:
        inner: Tensor = gelu(self.inner((seen.float() - self.mean) / self.spread))
        return inner


def _ridge(inner: Tensor, named: Tensor) -> tuple[Tensor, Tensor]:
    """Weight `[width, hidden]` and bias `[width]` from `[pictures, vectors, hidden]`, the same at all places."""
    vectors = inner.shape[1]
    x = inner.flatten(0, 1).double()
    y = named.double().repeat_interleave(vectors, dim=0)
    centre, target = x.mean(dim=0), y.mean(dim=0)
    x, y = x - centre, y - target
    penalty = _PENALTY * x.pow(2).sum(dim=0).mean().clamp(min=1e-12)
    gram = x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, x.T @ y).T
    return weight.float(), (target - weight @ centre).float()


def vectors_of(base: VisionBase, size: int) -> tuple[int, int]:
    """How many vectors a picture of so many pixels a side becomes, and how wide the features are."""
    with torch.inference_mode():
        blank = torch.zeros(1, 3, size, size, device=base.device, dtype=DTYPES[base.precision])
        seen = look(base, base.tower.run_stages(blank, 0, base.tower.before_places))
    return seen.shape[1], seen.shape[2]


def look(base: VisionBase, states: Tensor) -> Tensor:
    """What is seen at each of at most `GRID x GRID` places, `[rows, vectors, seen]` in float32.

    Args:
        base: Whose tower runs to its end.
        states: What its first `before_places` stages gave.
    """
    places = base.tower.places(states).float()
    side = isqrt(places.shape[1])
    if side <= GRID:
        return places
    grid = places.transpose(1, 2).reshape(len(places), -1, side, side)
    return adaptive_avg_pool2d(grid, GRID).flatten(2).transpose(1, 2)
