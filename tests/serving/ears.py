"""Adapters of the tiny Whisper, sealed as training seals them, with random weights that are loud enough to be heard."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from moatelier.contracts import TrainSpec
from moatelier.ids import canonical_json
from modalities.audio.classifier import Classifier
from modalities.audio.config import Place
from modalities.audio.model import load_base
from modalities.bundle import CONFIG, WEIGHTS, bundle_folder, seal
from training.methods import audio_lora

LABELS = ("high", "low", "middle")


def seal_ear(
    suffix: str,
    *,
    seed: int = 0,
    scale: float = 0.5,
    window_s: float = 1.0,
    place: Place = "both",
    kind: str = "transcription",
    change: Callable[[dict[str, bytes]], None] = lambda files: None,
    told: dict[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """Seal a LoRA whose weights are normal with deviation `scale`; `change` may spoil the files before."""
    base = load_base("ears", "fp32").with_window(window_s)
    classes = kind == "classification"
    spec = TrainSpec(method="audio_lora", base="ears", dataset="0" * 64, suffix=suffix, seed=seed, rank=4, alpha=8.0)
    bare = Classifier(base.model.encoder, len(LABELS)) if classes else base.model
    model = audio_lora.attach(bare, spec, 0, shape=base.config, place=place)
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=chance) * scale)
    config = json.loads(audio_lora.config(model, "ears"))
    config |= {"window_s": window_s, "place": place} | (told or {})
    weights = save(audio_lora.weights(model), metadata={"format": "pt"})
    files = {CONFIG: canonical_json(config), WEIGHTS: bytes(weights)}
    change(files)
    manifest: dict[str, Any] = {
        "base": "ears",
        "base_digest": base.digest,
        "modality": "audio",
        "kind": kind,
        "suffix": suffix,
        "system": "",
        "template_digest": base.template_digest,
        "stop_ids": (),
        "labels": LABELS if classes else (),
        "first_layer": 0,
        "dataset": "0" * 64,
        "licence": "MIT",
        "spec": spec,
        "versions": {"torch": "0"},
    }
    return bundle_folder(seal(files, **(manifest | fields)))
