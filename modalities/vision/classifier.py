"""A tower with a linear head that names classes: what adapters of images are put into."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from modalities.vision.towers import Tower, channels_last

HEAD = "class_head"
"""The head's name in adapters. PEFT takes whatever ends like it, and towers of timm have a `head` of their own."""


class Classifier(nn.Module):
    """A tower's stages and a head `[labels, width]` in float32.

    Batch norms keep their statistics however it is trained: those of a few rows of one task are worse, and the lower
    stages' output is cached.
    """

    def __init__(self, tower: Tower, labels: int) -> None:
        super().__init__()
        self.tower = tower
        self.class_head = nn.Linear(tower.width, labels)
        nn.init.zeros_(self.class_head.weight)
        nn.init.zeros_(self.class_head.bias)
        self.train(False)

    def train(self, mode: bool = True) -> "Classifier":
        """Set the mode of everything but the batch norms."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Logits `[batch, labels]` of what came out of the stages below `start`: of pixels, if that is 0."""
        for stage in list(self.tower.stages)[start:]:
            x = stage(channels_last(x.to(_dtype(stage, x.dtype))))
        logits: Tensor = self.class_head(x.float())
        return logits


def with_own_stages(model: Classifier, first: int) -> Classifier:
    """The classifier on a tower that shares the stages below `first` and has copies of the others, in float32."""
    tower, stages = model.tower, list(model.tower.stages)
    own = [_copy(stage).float() for stage in stages[first:]]
    model.tower = Tower([*stages[:first], *own], tower.project, tower.width, tower.fixed_size, pools=tower.pools).eval()
    return model


def _dtype(stage: nn.Module, otherwise: torch.dtype) -> torch.dtype:
    """What a stage multiplies in: tuned ones are in float32 above a base that may be in bfloat16."""
    return next((weight.dtype for weight in stage.parameters() if weight.ndim > 1), otherwise)


def _copy(stage: Any) -> Any:
    return copy.deepcopy(stage)
