"""MeZO's steps: the slope along a random direction by two forward passes (Malladi et al. 2023, arXiv 2305.17333).

Weights move in place by `noise * z`, by `-2 noise * z` and back; z is never kept but drawn again from its seed, in
pieces. In floating point what is added and subtracted again leaves a trace, so all of it lies on a grid: for each
tensor the numbers that 24 bits can tell apart up to twice its largest weight. Sums on the grid are exact.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from moatelier.contracts import TrainSpec
from moatelier.errors import InvalidRequest
from training.batches import micro_batches
from training.means import Means
from training.objective import Objective
from training.stepping import Rate

_PIECE = 2**18
"""Numbers of the direction that exist at a time."""
_FARTHEST = 8.0
"""No number of a normal distribution that is ever drawn lies further out."""


class Slopes:
    """See `training.stepping.Stepper`.

    Raises:
        InvalidRequest: The objective has no such figure as `minimise` names.
    """

    def __init__(self, spec: TrainSpec, objective: Objective, means: Means, rate: Rate, steps: int) -> None:
        means.need_alone("MeZO")
        self._spec, self._objective, self._rate = spec, objective, rate
        self._measure = objective.loss if spec.minimise == "loss" else getattr(objective, spec.minimise, None)
        if self._measure is None:
            raise InvalidRequest(f"There is no figure {spec.minimise!r} here.", where="minimise", remedy="Use `loss`.")
        self._weights = [p.data for p in objective.model.parameters() if p.requires_grad]

    @torch.no_grad()
    def step(self, rows: Sequence[int], number: int) -> float:
        """Two looks, and a step down the slope; returns the mean of both."""
        noise, grids = self._spec.noise, self.align()
        at, looks = 0, []
        try:
            for side in (1, -1):
                self.move(noise, number, grids, times=side - at)
                at = side
                looks.append(self._look(rows))
        finally:  # also where a look ran out of memory
            self.move(noise, number, grids, times=-at)
        slope, rate = (looks[0] - looks[1]) / (2 * noise), self._rate(number)
        if math.isfinite(slope):
            for weight in self._weights if self._spec.weight_decay else ():
                weight.mul_(1 - rate * self._spec.weight_decay)
            self.move(-rate * slope, number, grids)
        return sum(looks) / 2

    def state(self) -> dict[str, Any]:
        """Nothing: the direction is drawn from the seed and the step."""
        return {}

    def restore(self, state: dict[str, Any], number: int) -> None:
        """Nothing to be done."""

    def align(self) -> list[float]:
        """Put the weights on their grids, where they stay; returns each tensor's, a power of two."""
        grids = []
        for weight in self._weights:
            least, most = weight.aminmax()
            largest = max(abs(float(least)), abs(float(most))) + _FARTHEST * self._spec.noise
            grid = 2.0 ** (math.ceil(math.log2(largest)) + 1 - 24)
            weight.div_(grid).round_().mul_(grid)
            grids.append(grid)
        return grids

    def move(self, by: float, number: int, grids: Sequence[float], times: int = 1) -> None:
        """Move all weights along the direction of a step; what is moved so often in all as not at all is as it was."""
        for (piece, direction), grid in self._directions(number, grids):
            piece.add_(direction.mul_(by / grid).round_().mul_(grid * times))

    def _directions(self, number: int, grids: Sequence[float]) -> Iterator[tuple[tuple[Tensor, Tensor], float]]:
        """Pieces of the weights, each with its part of the direction, and their grids."""
        device = self._weights[0].device
        chance = torch.Generator(device).manual_seed(self._spec.seed * 1_000_003 + number)
        for weight, grid in zip(self._weights, grids, strict=True):
            for piece in weight.view(-1).split(_PIECE):
                yield (piece, torch.randn(piece.shape, generator=chance, device=device)), grid

    def _look(self, rows: Sequence[int]) -> float:
        units = max(1, sum(self._objective.units[row] for row in rows))
        assert self._measure is not None
        pieces = micro_batches(self._objective.sizes, rows, self._objective.micro)
        return sum(float(self._measure(piece)) for piece in pieces) / units
