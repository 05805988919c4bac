"""The projector: what a vision base sees at each place becomes a vector of the language model's residual stream.

LLaVA 1.5's two layers (Liu et al. 2023, arXiv 2304.08485 and 2310.03744), with three differences that a small budget
asks for: features are standardised by the training pictures, each place has an offset of its own, and the output
begins as large as the states among which it will stand.
"""

from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, gelu

from modalities.imagetext.config import GRID
from modalities.machine import DTYPES
from modalities.vision.model import VisionBase


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
        inner = gelu(self.inner((seen.float() - self.mean) / self.spread))
        states: Tensor = (self.outer(inner) + self.offset) * self.scale
        return states

    def blind(self) -> Tensor:
        """What stands where no picture is seen, `[vectors, width]`: the mean of the training pictures' features."""
        states: Tensor = self(self.mean[None])
        return states[0]

    @torch.no_grad()
    def start(self, seen: Tensor, size: float) -> None:
        """Fit to the training pictures, before the first step.

        Args:
            seen: Their features `[pictures, vectors, seen]`.
            size: Root mean square of the states that the output shall be as large as.
        """
        features = seen.float()
        self.mean.copy_(features.mean(dim=0))
        # A channel that never moves is none to divide by.
        self.spread.copy_(features.std(dim=0, correction=0).clamp(min=1e-3))
        self.scale.fill_(size)
        self.outer.bias.zero_()
        now = self(features[:256]) / size
        self.outer.weight.div_(now.pow(2).mean().sqrt().clamp(min=1e-6))


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
