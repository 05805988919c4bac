"""LLaVA-like tuning: a projector from a vision base's features into the language model, and LoRA on that.

Liu et al. 2023, arXiv 2304.08485. There the projector is trained alone before both are; here that first stage is solved
in closed form (see `Projector.start`), and both learn from the first step on: a budget of minutes has no room for two
stages of steps.
"""

from typing import Any

from torch import Tensor, nn

from moatelier.contracts import TrainSpec
from moatelier.errors import IntegrityError, InvalidRequest
from modalities.imagetext.projector import Projector
from training.methods import lora

__all__ = ["Sighted", "attach", "config", "restore", "weights"]

_PREFIX = "projector."


class Sighted(nn.Module):
    """A language model with adapters and the projector of what it is shown.

    Attributes:
        language: PEFT's model around the base.
        projector: From features to states.
    """

    def __init__(self, language: Any, projector: Projector) -> None:
        super().__init__()
        self.language, self.projector = language, projector


def attach(model: Any, spec: TrainSpec, first_layer: int, *, projector: Projector) -> Sighted:
    """Put fresh adapters as `lora.attach` does; they and the projector are tuned.

    Raises:
        InvalidRequest: The lowest layers would be tuned: a picture's vectors come in above the frozen ones.
    """
    if spec.layers != "top_third":
        raise InvalidRequest(
            "Pictures are put in above the frozen layers, so that some must stay frozen.",
            where="layers",
            remedy="Use top_third.",
        )
    return Sighted(lora.attach(model, spec, first_layer), projector)


def weights(model: Sighted) -> dict[str, Tensor]:
    """The adapter's tensors on the CPU; the projector's names begin with `projector.`."""
    own = {f"{_PREFIX}{name}": tensor.detach().cpu().clone() for name, tensor in model.projector.state_dict().items()}
    return lora.weights(model.language) | own


def restore(model: Sighted, weights: dict[str, Tensor]) -> None:
    """Put them back, bit by bit.

    Raises:
        IntegrityError: A tensor is missing, one too many, or of another shape.
    """
    low, own = parted(weights)
    expected = {name: tensor.shape for name, tensor in model.projector.state_dict().items()}
    if expected != {name: tensor.shape for name, tensor in own.items()}:
        raise IntegrityError(
            "The projector's tensors are missing, too many or of another shape.",
            where="projector",
            remedy="Start the training anew.",
        )
    lora.restore(model.language, low)
    model.projector.load_state_dict(own)


def parted(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The adapters' tensors in PEFT's names, and the projector's in its own."""
    own = {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items() if name.startswith(_PREFIX)}
    return {name: tensor for name, tensor in weights.items() if not name.startswith(_PREFIX)}, own


def config(model: Sighted, base: str) -> bytes:
    """PEFT's `adapter_config.json`, see `lora.config`."""
    return lora.config(model.language, base)
