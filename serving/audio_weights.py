"""Adapters of Whisper in memory: read from their bundles, and refused where they do not fit the base."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import LoraConfig

from moatelier.contracts import AdapterManifest
from moatelier.errors import IntegrityError, InvalidRequest
from modalities.audio.config import LANGUAGE, LONGEST_WINDOW_S, WINDOW, lora_targets
from modalities.audio.model import AudioBase
from modalities.bundle import CONFIG, open_bundle, read_manifest
from modalities.machine import DTYPES
from serving.heads import Head
from serving.lora import Part, read_config, read_tensors, require_shapes, scaled_rank

_PEFT = "base_model.model."


@dataclass(frozen=True)
class AudioWeights:
    """An adapter of recordings.

    Attributes:
        window_s: Seconds that it hears at once.
        language: The code of the language it was taught in, where the base knows several.
        head: Names classes by the mean of the encoder's states; None where it tells words.
        parts: Name of a layer -> what is added there.
    """

    window_s: float
    language: str | None = None
    head: Head | None = None
    parts: Mapping[str, Part] = field(default_factory=dict)
    first_layer: int = 0
    invocation: tuple[int, ...] = ()

    @property
    def encodes(self) -> bool:
        """Whether it changes the encoder; else its encoder states are the base's."""
        return any(name.startswith("encoder.") for name in self.parts)

    @property
    def size(self) -> int:
        """Bytes, low-rank parts twice: once as they are read, once in the stack that passes use."""
        low = sum(2 * (part.a.nbytes + part.b.nbytes) for part in self.parts.values())
        return low + (self.head.bytes if self.head else 0)


def read_bundle(
    folder: Path, base: AudioBase, windowed: Callable[[float], AudioBase]
) -> tuple[AdapterManifest, AudioWeights]:
    """Verify a bundle, every byte of it, and read its weights.

    Args:
        folder: Of the bundle.
        base: What it shall be loaded on.
        windowed: Gives the base with another window.

    Raises:
        NotFound: There is no bundle in the folder.
        IntegrityError: Changed bytes, another base, modality, or window than it says; or weights that do not fit.
    """
    manifest = read_manifest(folder)
    if manifest.modality != "audio":
        raise IntegrityError(
            f"The adapter is for {manifest.modality}, not for recordings.",
            where=str(folder),
            remedy="Load it on a base of its own modality.",
        )
    # The window is not in the manifest, so that the template is checked by what the configuration says of it.
    open_bundle(folder, base_digest=base.digest, template_digest=manifest.template_digest)
    config = read_config(folder, ("head",) if manifest.kind == "classification" else ())
    told: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())
    window_s, language = told.get(WINDOW, LONGEST_WINDOW_S), told.get(LANGUAGE)
    if _template_digest(window_s, windowed) != manifest.template_digest:
        raise IntegrityError(
            f"The adapter was not tuned to hear {window_s} s at once through this base's tokenizer and spectrogram.",
            where=str(folder / CONFIG),
            remedy="Tune it again on this base.",
        )
    if language is not None and not (base.config.multilingual and language in base.tokenizer.all_language_codes):
        raise IntegrityError(f"The base knows no language {language!r}.", where=str(folder / CONFIG))
    parts, head = _read_weights(folder, base, manifest, config)
    return manifest, AudioWeights(float(window_s), language, head, parts, manifest.first_layer)


def _template_digest(window_s: Any, windowed: Callable[[float], AudioBase]) -> str | None:
    """Of the base with this window; None where it cannot hear such a one."""
    try:
        return windowed(float(window_s)).template_digest
    except (InvalidRequest, TypeError, ValueError, OverflowError):
        return None


def _read_weights(
    folder: Path, base: AudioBase, manifest: AdapterManifest, config: LoraConfig
) -> tuple[dict[str, Part], Head | None]:
    tensors, width = read_tensors(folder), base.config.n_audio_state
    ends = tuple(f".{target}" for target in config.target_modules or ())
    ranks = {name: scaled_rank(config, name) for name in lora_targets(base.config) if f".{name}".endswith(ends)}
    if not ranks:
        raise IntegrityError("The adapter does not fit the base: it changes none of its layers.", where=str(folder))
    wanted: dict[str, tuple[int, ...]] = {}
    for name, (rank, _) in ranks.items():
        wanted |= {_key(name, "A"): (rank, width), _key(name, "B"): (width, rank)}
    weight, bias = f"{_PEFT}head.weight", f"{_PEFT}head.bias"
    if manifest.kind == "classification":
        wanted |= {weight: (len(manifest.labels), width), bias: (len(manifest.labels),)}
    require_shapes(tensors, wanted, folder)
    dtype = DTYPES[base.precision]
    parts = {}
    for name, (_, scale) in ranks.items():
        a, b = (tensors[_key(name, side)].float().to(base.device) for side in "AB")
        parts[name] = Part(a.to(dtype), (b * scale).to(dtype))
    if manifest.kind != "classification":
        return parts, None
    return parts, Head(*(tensors[name].float().to(base.device) for name in (weight, bias)))


def _key(name: str, side: str) -> str:
    return f"{_PEFT}{name}.lora_{side}.weight"
