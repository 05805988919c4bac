"""LoRA in Whisper: on query and value of the encoder, the decoder or both, self and cross attention, by PEFT.

openai-whisper's linear layers are `nn.Linear` with a cast, which PEFT adapts as any other. Query and value are where
Hu et al. (2021, arXiv 2106.09685) found most to be gained for the parameters: with rank 8 in both halves of the tiny
model these are 147,456.
"""

from typing import Any

from moatelier.contracts import TrainSpec
from moatelier.errors import InvalidRequest
from modalities.audio.classifier import Classifier
from modalities.audio.config import AudioConfig, Place, lora_targets
from training.methods.lora import adapt, config, restore, weights

__all__ = ["attach", "config", "restore", "weights"]


def attach(model: Any, spec: TrainSpec, first_layer: int, *, shape: AudioConfig, place: Place = "both") -> Any:
    """Put fresh adapters in float32 into Whisper, or into an encoder with a head, which is tuned with them.

    Args:
        model: openai-whisper's model, or a `Classifier`; it is changed in place, and so is every model that shares its
            blocks, whatever its window.
        spec: Gives rank, alpha, dropout and the seed of A.
        first_layer: Index of the lowest encoder block that gets adapters; below it the encoder is the frozen base.
        shape: The model's.
        place: Which half gets adapters; a classifier has the encoder alone.

    Returns:
        The PEFT model around it.

    Raises:
        InvalidRequest: Nothing would be adapted.
    """
    heard = isinstance(model, Classifier)
    names = lora_targets(shape, "encoder" if heard else place, first_layer)
    if not names:
        raise InvalidRequest(
            f"From block {first_layer} up the encoder has nothing to adapt.",
            where="first_layer",
            remedy=f"Its blocks are 0 to {shape.n_audio_layer - 1}.",
        )
    return adapt(model, spec, names, modules_to_save=["head"] if heard else None)
