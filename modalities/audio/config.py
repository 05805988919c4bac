"""What is known of a Whisper model without loading it: its shape, its window, adapter targets. Imports no torch."""

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from moatelier.contracts import Contract
from moatelier.errors import InvalidRequest, ModelUnavailable
from modalities.base import Modality
from modalities.text.config import top_third

AUDIO = Modality(
    name="audio",
    kinds=("transcription", "classification"),
    metrics=("word_accuracy", "exact_match", "accuracy", "macro_f1"),
    methods=("audio_lora",),
    suffixes=(".zip", ".csv", ".jsonl"),
    max_tokens=0,
    content="audio",
    data="modalities.audio.data",
    curating="modalities.audio.curating",
    model="modalities.audio.model:load_base",
)

RATE = 16_000
"""Samples a second of everything that Whisper hears, in one channel."""
POSITIONS_PER_S = 50
"""Encoder states a second; each stands for two mel frames, that is 320 samples."""
LONGEST_WINDOW_S = 30.0

WEIGHTS = "model.safetensors"
DIMS = "dims.json"

WINDOW = "window_s"
PLACE = "place"
LANGUAGE = "language"
"""Fields of a bundle's `adapter_config.json`: the window in seconds, which half of the model is tuned, and the code of
the language that transcripts are taught in, where the base knows several."""

Place = Literal["encoder", "decoder", "both"]
"""Which half of the model an adapter sits in."""


class AudioConfig(Contract):
    """The shape of a Whisper model, as its folder's `dims.json` says; the names are those of openai-whisper."""

    n_mels: Literal[80, 128]
    n_audio_ctx: int = Field(ge=1, le=1500)
    n_audio_state: int = Field(ge=4, le=8192)
    n_audio_head: int = Field(ge=1)
    n_audio_layer: int = Field(ge=1, le=256)
    n_vocab: int = Field(ge=51864, le=60000)
    n_text_ctx: int = Field(ge=8, le=8192)
    n_text_state: int = Field(ge=4, le=8192)
    n_text_head: int = Field(ge=1)
    n_text_layer: int = Field(ge=1, le=256)
    alignment_heads: tuple[tuple[int, int], ...] = ()
    """(decoder layer, head) whose attention follows the sound; timestamps of words are read from them."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.n_audio_state != self.n_text_state:
            raise ValueError("encoder and decoder differ in width")
        if self.n_audio_state % 2 or self.n_audio_state % self.n_audio_head or self.n_text_state % self.n_text_head:
            raise ValueError("the heads do not divide the width")
        if any(layer >= self.n_text_layer or head >= self.n_text_head for layer, head in self.alignment_heads):
            raise ValueError("an alignment head is none of the decoder's")
        return self

    @property
    def dims(self) -> dict[str, int]:
        """The arguments of `whisper.model.ModelDimensions`."""
        return self.model_dump(exclude={"alignment_heads"})

    @property
    def multilingual(self) -> bool:
        """Whether it was trained on many languages, and so takes a language, tells it, and translates."""
        return self.n_vocab >= 51865

    @property
    def first_layer_default(self) -> int:
        """The first encoder block of the top third: 4 blocks -> 2."""
        return top_third(self.n_audio_layer)


def read_config(folder: Path) -> AudioConfig:
    """Read a model folder's `dims.json`.

    Raises:
        ModelUnavailable: There is none, or it is not of a Whisper model.
    """
    try:
        return AudioConfig.model_validate(json.loads((folder / DIMS).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise ModelUnavailable(
            f"This is not a folder of a Whisper model: {error}",
            where=str(folder / DIMS),
            remedy="Delete the folder and pull the model again.",
        ) from error


def positions(window_s: float) -> int:
    """How many encoder states a window has: 3 s are 150.

    Raises:
        InvalidRequest: The window is not within 0.02 to 30 s.
    """
    found = round(window_s * POSITIONS_PER_S)
    if not 1 <= found <= LONGEST_WINDOW_S * POSITIONS_PER_S:
        raise InvalidRequest(
            f"Whisper cannot hear a window of {window_s:g} s.",
            where="window_s",
            remedy=f"Choose one of 0.02 to {LONGEST_WINDOW_S:g} s.",
        )
    return found


def samples(window_s: float) -> int:
    """How many samples a window has: 3 s are 48,000. Raises like `positions`."""
    return positions(window_s) * RATE // POSITIONS_PER_S


def token_limit(window_s: float, n_text_ctx: int) -> int:
    """Most tokens of a window's text: more than anyone says in the time, so that a loop of a model ends early.

    Whisper's own limit, half of its context, holds from 13 seconds up.
    """
    return min(n_text_ctx // 2, 16 + round(16 * window_s))


def lora_targets(config: AudioConfig, place: Place = "both", first_layer: int = 0) -> list[str]:
    """Names of the query and value projections, of self and cross attention, that an adapter changes.

    Args:
        config: The model's shape.
        place: In which half.
        first_layer: The lowest encoder block that is changed; below it the encoder is the frozen base. All blocks of
            the decoder are changed.
    """
    found = []
    if place != "decoder":
        found += [f"encoder.blocks.{layer}.attn" for layer in range(first_layer, config.n_audio_layer)]
    if place != "encoder":
        blocks = [f"decoder.blocks.{layer}" for layer in range(config.n_text_layer)]
        found += [f"{block}.{attention}" for block in blocks for attention in ("attn", "cross_attn")]
    return [f"{attention}.{part}" for attention in found for part in ("query", "value")]
