"""Contrastive tuning with a locked image tower (Zhai et al. 2022, https://arxiv.org/abs/2111.07991).

LoRA in the tower of words, the scale of similarities, and, where the towers have never met, the images' projection into
the space of the words.
"""

import json
from typing import Any

from torch import Tensor

from moatelier.contracts import TrainSpec
from moatelier.errors import IntegrityError
from moatelier.ids import canonical_json
from modalities.vision.pairs import Pairs
from modalities.vision.word_tower import word_layers
from training.methods import lora

_TEXT = "text."


def attach(model: Pairs, spec: TrainSpec, first_layer: int) -> Pairs:
    """Put fresh adapters in float32 into the words' blocks from `first_layer` up; nothing of the images' tower.

    Args:
        model: It is changed in place. Its projection is tuned where it is a layer of its own.
        spec: Gives rank, alpha, dropout and the seed of A.
        first_layer: Index of the lowest block of the tower of words that gets adapters.
    """
    tuned = [parameter for parameter in model.project.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    model.text = lora.adapt(model.text, spec, word_layers(model.text, first_layer))
    for parameter in (*tuned, model.scale):
        parameter.requires_grad_(True)
    return model


def weights(model: Pairs) -> dict[str, Tensor]:
    """The adapter's tensors on the CPU: those of the words as PEFT saves them, after `text.`."""
    words = {f"{_TEXT}{name}": tensor for name, tensor in lora.weights(model.text).items()}
    return words | {name: tensor.detach().cpu().contiguous() for name, tensor in _whole(model).items()}


def restore(model: Pairs, weights: dict[str, Tensor]) -> None:
    """Put the adapter's tensors back, bit by bit.

    Raises:
        IntegrityError: A tensor is missing or one too many.
    """
    words = {name.removeprefix(_TEXT): tensor for name, tensor in weights.items() if name.startswith(_TEXT)}
    whole = _whole(model)
    if wrong := whole.keys() ^ (name for name in weights if not name.startswith(_TEXT)):
        raise IntegrityError(
            f"{len(wrong)} tensors do not belong to the adapter or are missing.",
            where=min(wrong),
            remedy="Start the training anew.",
        )
    lora.restore(model.text, words)
    for name, tensor in whole.items():
        tensor.data.copy_(weights[name])


def config(model: Pairs, base: str) -> bytes:
    """PEFT's `adapter_config.json` of the tower of words, in canonical form."""
    fields: dict[str, Any] = json.loads(lora.config(model.text, base))
    return canonical_json(fields | {"method": "contrastive"})


def _whole(model: Pairs) -> dict[str, Tensor]:
    """What is tuned as it is."""
    found = {f"project.{name}": weight for name, weight in model.project.named_parameters() if weight.requires_grad}
    return found | {"scale": model.scale}
