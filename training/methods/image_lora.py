"""LoRA in an image tower: on linear layers and on pointwise convolutions, by PEFT."""

from typing import Any

from moatelier.contracts import TrainSpec
from moatelier.errors import InvalidRequest
from modalities.vision.classifier import HEAD, Classifier
from modalities.vision.tuned import lora_layers
from training.methods.lora import adapt, config, restore, weights

__all__ = ["attach", "config", "restore", "weights"]


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
    names = lora_layers(model.tower, first_layer)
    if not names:
        raise InvalidRequest(
            f"From stage {first_layer} up the tower has no linear layer and no pointwise convolution.",
            where="first_layer",
            remedy=f"Its stages are 0 to {len(model.tower.stages) - 1}.",
        )
    return adapt(model, spec, names, modules_to_save=[HEAD])
