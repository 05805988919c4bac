"""Sealed adapters of Whisper: verified against the base and the window they were tuned with, and read."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from moatelier.contracts import AdapterManifest
from moatelier.errors import IntegrityError, InvalidRequest
from modalities.audio.config import LONGEST_WINDOW_S, lora_targets
from modalities.audio.model import AudioBase
from modalities.bundle import CONFIG, open_bundle, read_manifest
from modalities.machine import DTYPES
from serving.lora import LoraWeights, Part, read_config, read_tensors, require_shapes, scaled_rank

_PREFIX = "base_model.model"


@dataclass(frozen=True)
class Ear:
    """How an adapter hears, beside its low-rank weights.

    Attributes:
        window_s: Seconds that it hears at once.
        encodes: Whether it changes the encoder; else its encoder states are the base's.
        language: The code of the language it was taught in, where the base knows several.
        head: Weight `[labels, width]` and bias `[labels]` in float32 of one that tells labels.
    """

    window_s: float
    encodes: bool
    language: str | None
    head: tuple[Tensor, Tensor] | None


def read_adapter(
    folder: Path, base: AudioBase, windowed: Callable[[float], AudioBase]
) -> tuple[AdapterManifest, LoraWeights, Ear]:
    """Verify a bundle, every byte of it, and read it.

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
    # The window is not in the manifest, so that its part of the template is checked by what the configuration says.
    open_bundle(folder, base_digest=base.digest, template_digest=manifest.template_digest)
    weights, head = _read_weights(folder, base, manifest)
    told: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())
    window_s, language = told.get("window_s", LONGEST_WINDOW_S), told.get("language")
    if _template_digest(window_s, windowed) != manifest.template_digest:
        raise IntegrityError(
            f"The adapter was not tuned to hear {window_s} s at once through this base's tokenizer and spectrogram.",
            where=str(folder / CONFIG),
            remedy="Tune it again on this base.",
        )
    if language is not None and not (base.config.multilingual and language in base.tokenizer.all_language_codes):
        raise IntegrityError(f"The base knows no language {language!r}.", where=str(folder / CONFIG))
    encodes = any(name.startswith("encoder.") for _, name in weights.parts)
    return manifest, weights, Ear(float(window_s), encodes, language, head)


def _template_digest(window_s: Any, windowed: Callable[[float], AudioBase]) -> str | None:
    """Of the base with this window; None where it cannot hear such a one."""
    try:
        return windowed(float(window_s)).template_digest
    except (InvalidRequest, TypeError, ValueError, OverflowError):
        return None


def _read_weights(
    folder: Path, base: AudioBase, manifest: AdapterManifest
) -> tuple[LoraWeights, tuple[Tensor, Tensor] | None]:
    labels = len(manifest.labels) if manifest.kind == "classification" else 0
    config, tensors = read_config(folder, ("head",) if labels else ()), read_tensors(folder)
    targets = cast(list[str], config.target_modules or ())
    names = [name for name in lora_targets(base.config) if any(f".{name}".endswith(f".{end}") for end in targets)]
    ranks = {name: scaled_rank(config, name) for name in names}
    width = base.config.n_audio_state
    wanted: dict[str, tuple[int, ...]] = {}
    for name, (rank, _) in ranks.items():
        wanted |= {_key(name, "A"): (rank, width), _key(name, "B"): (width, rank)}
    if not wanted:
        raise IntegrityError("The adapter does not fit the base: it changes none of its layers.", where=str(folder))
    weight, bias = f"{_PREFIX}.head.weight", f"{_PREFIX}.head.bias"
    if labels:
        wanted |= {weight: (labels, width), bias: (labels,)}
    require_shapes(tensors, wanted, folder)
    device, dtype = base.device, DTYPES[base.precision]
    parts = {
        (0, name): Part(
            tensors[_key(name, "A")].to(device, dtype), (tensors[_key(name, "B")].float() * scale).to(device, dtype)
        )
        for name, (_, scale) in ranks.items()
    }
    head = (tensors[weight].float().to(device), tensors[bias].float().to(device)) if labels else None
    return LoraWeights(parts), head


def _key(name: str, side: str) -> str:
    return f"{_PREFIX}.{name}.lora_{side}.weight"
