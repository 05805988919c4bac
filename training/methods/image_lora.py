"""LoRA in an image tower: on linear layers and on pointwise convolutions, by PEFT.

Depthwise convolutions stay frozen: PEFT refuses grouped ones at most ranks, and they hold few of the weights.
"""

from typing import Any

from torch import nn

from moatelier.contracts import TrainSpec
from moatelier.errors import InvalidRequest
from modalities.vision.classifier import Classifier
from training.methods.lora import adapt, config, restore, weights

__all__ = ["attach", "config", "restore", "targets", "weights"]


def attach(model: Classifier, spec: TrainSpec, first_layer: int) -> Any:
    """Put fresh adapters in float32 into the stages from `first_layer` up; they and the head are tuned.

    Args:
        model: A classifier; its tower is changed in place.
        spec: Gives rank, alpha, dropout and the seed of A.
        first_layer: Index of the lowest stage that gets adapters.

    Returns:
        The PEFT model around it.

    Raises:
        InvalidRequest: There is nothing to adapt in these stages.
    """
    names = targets(model, first_layer)
    if not names:
        raise InvalidRequest(
            f"From stage {first_layer} up the tower has no linear layer and no pointwise convolution.",
            where="first_layer",
            remedy=f"Its stages are 0 to {len(model.tower.stages) - 1}.",
        )
    return adapt(model, spec, names, modules_to_save=["head"])


def targets(model: Classifier, first: int) -> list[str]:
    """Names of the layers that LoRA adapts in the stages from `first` up."""
    found = []
    for number, stage in list(enumerate(model.tower.stages))[first:]:
        prefix = f"tower.stages.{number}"
        found += [f"{prefix}.{name}" for name, module in stage.named_modules() if _adapts(module)]
    return found


def _adapts(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)
