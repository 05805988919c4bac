"""Half Fine-Tuning's steps: ordinary ones, with another half of the weights in each round."""

from collections.abc import Sequence
from typing import Any

from moatelier.contracts import TrainSpec
from training.means import Means
from training.methods import hft
from training.objective import Objective
from training.stepping import Descent, Rate


class Halves:
    """See `training.stepping.Stepper`. An optimiser begins anew with each round, which are equally long."""

    def __init__(self, spec: TrainSpec, objective: Objective, means: Means, rate: Rate, steps: int) -> None:
        self._spec, self._model, self._steps = spec, objective.model, steps
        for parameter in hft.tuned(self._model).values():  # any of them may come to be trained
            parameter.requires_grad_(True)
        self._descent = Descent(spec, objective, means, rate, steps)
        self._round = 0
        hft.begin(self._model, spec.seed, 0)

    def step(self, rows: Sequence[int], number: int) -> float:
        """One step on the half of the step's round."""
        due = number * self._spec.rounds // self._steps
        if due != self._round:
            self._round = due
            hft.begin(self._model, self._spec.seed, due)
            self._descent.begin_anew()
        return self._descent.step(rows, number)

    def state(self) -> dict[str, Any]:
        """The round, and the optimiser's."""
        return {"round": self._round, "descent": self._descent.state()}

    def restore(self, state: dict[str, Any], number: int) -> None:
        """Put it back."""
        self._round = state["round"]
        hft.begin(self._model, self._spec.seed, self._round)
        self._descent.restore(state["descent"], number)
