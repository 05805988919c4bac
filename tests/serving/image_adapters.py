"""Adapters of images with random weights, sealed as training seals them, and what the tuned model itself says."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from moatelier.contracts import TrainSpec
from moatelier.ids import canonical_json
from modalities.bundle import CONFIG, WEIGHTS, bundle_folder, seal
from modalities.vision.classifier import Classifier
from modalities.vision.config import TRANSFORM
from modalities.vision.model import load_base
from modalities.vision.pixels import to_pixels
from training import methods

LABELS = ("blue", "green", "red")


@dataclass(frozen=True)
class Made:
    """A sealed adapter.

    Attributes:
        folder: Its bundle.
        logits: Images -> what the tuned model says of them, `[images, labels]`.
    """

    folder: Path
    logits: Callable[[list[Image.Image]], Tensor]


def made(
    base_id: str,
    method: str,
    *,
    seed: int = 0,
    first: int = 2,
    size: int = 32,
    labels: tuple[str, ...] = LABELS,
    loud: float = 1.0,
    head: float = 0.2,
    told: Mapping[str, Any] = MappingProxyType({}),
    change: Callable[[dict[str, bytes]], None] = lambda files: None,
    **fields: Any,
) -> Made:
    """Seal an adapter whose weights are drawn.

    Args:
        base_id: Pulled.
        method: Of the registry.
        seed: Of the weights.
        first: Lowest stage that it tunes.
        size: Of the images.
        labels: Of the head.
        loud: How far what is tuned lies from where it starts.
        head: Deviation of the head's weights.
        told: Changes to `adapter_config.json`.
        change: May spoil the files before they are sealed.
        fields: Of the manifest.
    """
    base = load_base(base_id, "fp32")
    spec = TrainSpec(method=method, base=base_id, dataset="0" * 64, suffix="s", rank=2 + seed % 3, alpha=8.0)
    module = methods.load(spec, "vision")
    model = module.attach(Classifier(base.tower, len(labels)), spec, first)
    chance = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            noise = torch.randn(weight.shape, generator=chance)
            weight.data += noise * (head if "head" in name else loud * 0.1)
    transform = base.transform_at(size)
    config = json.loads(module.config(model, base_id)) | {TRANSFORM: transform.model_dump(mode="json")} | dict(told)
    files = {CONFIG: canonical_json(config), WEIGHTS: bytes(save(module.weights(model), metadata={"format": "pt"}))}
    change(files)
    manifest: dict[str, Any] = {
        "base": base_id,
        "base_digest": base.digest,
        "modality": "vision",
        "kind": "classification",
        "suffix": "s",
        "system": "",
        "template_digest": transform.digest,
        "stop_ids": (),
        "labels": labels,
        "first_layer": len(base.tower.stages) if method == "linear_probe" else first,
        "dataset": "0" * 64,
        "licence": "Apache-2.0",
        "spec": spec,
        "versions": {"torch": "0"},
    }

    def logits(images: list[Image.Image]) -> Tensor:
        with torch.inference_mode():
            found: Tensor = model(torch.stack([to_pixels(image, transform) for image in images]))
        return found

    return Made(bundle_folder(seal(files, **(manifest | fields))), logits)
