"""Top blocks: the last stages of an image tower as the adapter; the frozen ones below run once for all such adapters.

Convolutions and linear layers are tuned, norms are not: neither the statistics of batch norms nor any scale or shift.
"""

from typing import Any

from torch import Tensor

from moatelier.contracts import TrainSpec
from moatelier.errors import InvalidRequest
from moatelier.ids import canonical_json
from modalities.vision.classifier import Classifier, with_own_stages
from modalities.vision.tuned import whole_weights
from training.methods import whole


def attach(model: Classifier, spec: TrainSpec, first_layer: int) -> Classifier:
    """Give a classifier its own copies of the stages from `first_layer` up, to be tuned with the head.

    Args:
        model: Its tower's lower stages stay those of the base; the base itself is not changed.
        spec: Nothing of it matters here.
        first_layer: Index of the lowest stage to tune.

    Raises:
        InvalidRequest: There is no such stage.
    """
    stages = len(model.tower.stages)
    if not 0 <= first_layer < stages:
        raise InvalidRequest(
            f"The tower has no stage {first_layer}.", where="first_layer", remedy=f"Its stages are 0 to {stages - 1}."
        )
    model.requires_grad_(False)
    model = with_own_stages(model, first_layer)
    for weight in whole_weights(model.tower, first_layer).values():
        weight.requires_grad_(True)
    model.class_head.requires_grad_(True)
    return model


def weights(model: Any) -> dict[str, Tensor]:
    """The adapter's tensors on the CPU, named as in the classifier."""
    return whole.taken(_tuned(model))


def restore(model: Any, weights: dict[str, Tensor]) -> None:
    """Put the adapter's tensors back, bit by bit.

    Raises:
        IntegrityError: A tensor is missing, one too many, or of another shape.
    """
    whole.put_back(_tuned(model), weights)


def config(model: Any, base: str) -> bytes:
    """`adapter_config.json` in canonical form."""
    return sealed("top_blocks", base, model)


def sealed(method: str, base: str, model: Any) -> bytes:
    """What adapters of whole weights write where PEFT's have its configuration."""
    stages = [n for n, stage in enumerate(model.tower.stages) if any(p.requires_grad for p in stage.parameters())]
    first = stages[0] if stages else len(model.tower.stages)
    return canonical_json(
        {
            "method": method,
            "base_model_name_or_path": base,
            "first_stage": first,
            "stages": len(model.tower.stages),
            "labels": model.class_head.out_features,
        }
    )


def _tuned(model: Any) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in sorted(model.named_parameters()) if tensor.requires_grad}
