"""LOMO's steps: plain SGD within back-propagation (Lv et al. 2023, arXiv 2306.09782).

As soon as a tensor's gradient is known it is used and dropped. So a step is one pass over its whole batch: a second
micro-batch would see weights that the first has changed. Clipping by the norm needs all gradients before the first is
used, so it takes back-propagation twice; `max_grad_norm` of 0 does without.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moatelier.contracts import TrainSpec
from training.means import Means
from training.objective import Objective
from training.stepping import Rate


class Fused:
    """See `training.stepping.Stepper`."""

    def __init__(self, spec: TrainSpec, objective: Objective, means: Means, rate: Rate, steps: int) -> None:
        means.need_alone("LOMO")
        self._spec, self._objective, self._accelerator, self._rate = spec, objective, means.accelerator, rate
        self._square: Tensor | None = None
        self._step_rate = 0.0
        for parameter in objective.model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._use)

    def step(self, rows: Sequence[int], number: int) -> float:
        """One step of SGD."""
        units = max(1, sum(self._objective.units[row] for row in rows))
        self._square = None
        loss = self._objective.loss(list(rows)) / units
        total = float(loss.detach())
        if not math.isfinite(total):
            return total
        most, norm = self._spec.max_grad_norm, 0.0
        if most:
            self._square = loss.new_zeros((), dtype=torch.float32)
            self._accelerator.backward(loss, retain_graph=True)
            norm, self._square = float(self._square.sqrt()), None
            if not math.isfinite(norm):
                return math.nan
        # As torch's clip_grad_norm_ has it.
        self._step_rate = self._rate(number) * (min(1.0, most / (norm + 1e-6)) if most else 1.0)
        self._decay = 1 - self._rate(number) * self._spec.weight_decay
        self._accelerator.backward(loss)
        return total

    def state(self) -> dict[str, Any]:
        """Nothing but the weights."""
        return {}

    def restore(self, state: dict[str, Any], number: int) -> None:
        """Nothing to be done."""

    @torch.no_grad()
    def _use(self, parameter: nn.Parameter) -> None:
        """What becomes of a gradient at once: part of the norm, or the update."""
        assert parameter.grad is not None
        if self._square is not None:
            self._square += parameter.grad.float().square().sum()
        else:
            parameter.mul_(self._decay).add_(parameter.grad, alpha=-self._step_rate)
        parameter.grad = None
