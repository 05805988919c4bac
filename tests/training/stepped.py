"""An objective in miniature, and what a stepper makes of it."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from moatelier.job import Job
from training.checkpoint import State
from training.means import Means
from training.ranks import Ranks
from training.recovery import Setbacks


def alone() -> Means:
    """What the steps of a training in one process work with, in which nothing has gone wrong."""
    return Means(Ranks(), Setbacks(Job(Path(mkdtemp()), quiet=True), State(spec="", data="")))


class Towers:
    """See `training.objective.Objective`: a classifier of some layers on fixed random rows."""

    micro, solved = 10**6, False

    def __init__(self, count: int = 12, width: int = 16, depth: int = 3) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())])
        self.inputs, self.targets = torch.randn(count, width), torch.arange(count) % 5
        self.sizes: Sequence[int] = [1] * count
        self.units = self.sizes

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Cross-entropy summed over the rows."""
        return cross_entropy(self.model(self.inputs[list(rows)]), self.targets[list(rows)], reduction="sum")

    def token_errors(self, rows: Sequence[int]) -> Tensor:
        """How many are wrong."""
        wrong = self.model(self.inputs[list(rows)]).argmax(-1) != self.targets[list(rows)]
        return wrong.sum().float()

    def weights(self) -> dict[str, Tensor]:
        """Copies of all."""
        return {name: tensor.detach().clone() for name, tensor in self.model.named_parameters()}

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put them back."""
        self.model.load_state_dict(weights)
