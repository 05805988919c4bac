"""The conversions that a catalogue entry may name: from payload files to a folder that loads without the network.

A conversion is a function `(source, to, context)`: it reads the files in `source`, fills the empty folder `to`.
"""

import os
import shutil
from pathlib import Path

from moatelier.errors import ModelUnavailable
from modalities.vision.config import read_config, weights_file

CONVERSIONS = {
    "gguf_text": "modalities.text.convert:gguf_text",
    "hf_text": "modalities.convert:hf_text",
    "hf_embedding": "modalities.convert:hf_embedding",
    "hf_vision": "modalities.convert:hf_vision",
    "timm_efficientnet_lite0": "modalities.vision.convert:timm_efficientnet_lite0",
    "hf_whisper": "modalities.audio.convert:hf_whisper",
    "ctranslate2_whisper": "modalities.audio.convert:ctranslate2_whisper",
}
"""Name in the catalogue -> dotted path. Those that need torch are imported only when they are used."""

SAFE = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
"""Files that may be taken from a folder without pins: no code, no pickles."""


def path_of(name: str, base_id: str) -> str:
    """The dotted path of the conversion that a catalogue entry names.

    Raises:
        ModelUnavailable: This release has no such conversion, so that the model cannot be used.
    """
    if name not in CONVERSIONS:
        raise ModelUnavailable(
            f"The model {base_id!r} cannot be pulled: this release has no loader for its format {name!r} yet.",
            where=base_id,
            remedy="Formats with a loader are " + ", ".join(CONVERSIONS) + ".",
        )
    return CONVERSIONS[name]


def hf_text(source: Path, to: Path, context: int | None) -> None:
    """Take a Hugging Face text folder as it is.

    Raises:
        ModelUnavailable: A file that every such folder has is missing.
    """
    _require(source, "config.json", "tokenizer.json")
    _require_weights(source)
    _take(source, to, [file for pattern in SAFE for file in source.glob(pattern)])


def hf_embedding(source: Path, to: Path, context: int | None) -> None:
    """Take a sentence-transformers folder as it is.

    Raises:
        ModelUnavailable: A file that every such folder has is missing.
    """
    _require(source, "config.json", "modules.json", "tokenizer.json")
    _require_weights(source)
    _take(source, to, [file for pattern in SAFE for file in source.rglob(pattern)])


def hf_vision(source: Path, to: Path, context: int | None) -> None:
    """Take a folder as open_clip or timm write it for the Hub: configuration, tokenizer if any, weights.

    Raises:
        ModelUnavailable: Its configuration is not that of a vision model, or the weights are missing.
    """
    weights = weights_file(source, read_config(source).format)
    _take(
        source,
        to,
        [*(file for pattern in SAFE if "safetensors" not in pattern for file in source.glob(pattern)), weights],
    )


def _require(source: Path, *names: str) -> None:
    for name in names:
        if not (source / name).is_file():
            raise ModelUnavailable("The model's folder lacks a file.", where=str(source / name))


def _require_weights(source: Path) -> None:
    if not any(source.glob("*.safetensors")):
        raise ModelUnavailable(
            "The model's folder has no weights in safetensors.",
            where=str(source),
            remedy="Convert them first; pickled weights are never loaded.",
        )


def _take(source: Path, to: Path, files: list[Path]) -> None:
    """Hard-link the files, or copy them where the file system cannot: large models are not kept twice."""
    for file in files:
        target = to / file.relative_to(source)
        if file.name == "pack.json" or not file.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file.resolve(), target)
        except OSError:
            shutil.copyfile(file, target)
