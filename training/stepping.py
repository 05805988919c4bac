"""How a step changes what is trained; the loop asks for one after another and keeps the score.

A stepper is made by `make` and offers what `Stepper` says. This module's own is the
ordinary one, by back-propagation and an optimiser; methods that go another way name theirs in the registry.
"""

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import nn

from moatelier.contracts import TrainSpec
from training import optimizers
from training.means import Means
from training.objective import Objective, Stepwise

Rate = Callable[[int], float]
"""Step, from 0 -> its learning rate."""


class Stepper(Protocol):
    """Changes the weights, step by step."""

    def step(self, rows: Sequence[int], number: int) -> float:
        """Learn from these rows; returns their mean loss per unit.

        Where that is not finite, nothing has changed; nor where it raises, as when memory runs out, but for methods
        that update within back-propagation.

        Args:
            rows: Of the objective.
            number: Of the step, from 0.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What the next step depends on beside weights and random state, for `torch.save`."""
        ...

    def restore(self, state: dict[str, Any], number: int) -> None:
        """Put it back, before step `number`."""
        ...


def make(spec: TrainSpec, path: str, objective: Objective, means: Means, rate: Rate, steps: int) -> Stepper:
    """The stepper at a dotted path `module:class`."""
    module, _, name = path.partition(":")
    stepper: Stepper = getattr(importlib.import_module(module), name)(spec, objective, means, rate, steps)
    return stepper


class Descent:
    """Back-propagation over micro-batches, clipping, an optimiser. See `Stepper`.

    Args:
        spec: Names the optimiser.
        objective: What is minimised.
        means: The processes and the memory of the training.
        rate: The learning rate of a step.
        steps: Of the whole run.
    """

    def __init__(self, spec: TrainSpec, objective: Objective, means: Means, rate: Rate, steps: int) -> None:
        self._spec, self._objective, self._means, self._rate = spec, objective, means, rate
        self._steps = steps
        self._trained = [(name, p) for name, p in objective.model.named_parameters() if p.requires_grad]
        self._optimizer = means.accelerator.prepare_optimizer(optimizers.make(spec, self._trained))

    def step(self, rows: Sequence[int], number: int) -> float:
        """Take one step of the optimiser."""
        try:
            total = self._backward(rows, number)
        except BaseException:
            self._optimizer.zero_grad()
            raise
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(number)
        if math.isfinite(total) and self._spec.max_grad_norm:
            norm = self._means.accelerator.clip_grad_norm_(self._parameters, self._spec.max_grad_norm)
            total = total if math.isfinite(float(norm)) else math.nan
        if math.isfinite(total):
            self._optimizer.step()
            if isinstance(self._objective, Stepwise):
                self._objective.after_step(number + 1, self._steps)
        self._optimizer.zero_grad()
        return total

    def _backward(self, rows: Sequence[int], number: int) -> float:
        units = max(1, sum(self._objective.units[row] for row in rows))

        def part(piece: list[int]) -> float:
            loss = self._objective.loss(piece) / units
            self._means.accelerator.backward(loss)
            return float(loss.detach())

        total = self._means.sum(self._objective, rows, 2 * number, part, self._optimizer.zero_grad)
        self._means.ranks.add_gradients(self._parameters)
        return total

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for _, parameter in self._trained]

    def state(self) -> dict[str, Any]:
        """The optimiser's, and the method's own."""
        method = self._objective.state() if isinstance(self._objective, Stepwise) else {}
        return {"optimizer": self._optimizer.state_dict(), "method": method}

    def restore(self, state: dict[str, Any], number: int) -> None:
        """Put it back."""
        self._optimizer.load_state_dict(state["optimizer"])
        if isinstance(self._objective, Stepwise):
            self._objective.restore_state(state["method"])

    def begin_anew(self) -> None:
        """Forget what the optimiser has gathered."""
        optimizers.forget(self._optimizer.optimizer)
