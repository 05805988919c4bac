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
from torch.nn.functional import normalize

from moatelier.contracts import TrainSpec
from moatelier.ids import canonical_json
from modalities.bundle import CONFIG, WEIGHTS, bundle_folder, seal
from modalities.vision.classifier import Classifier
from modalities.vision.config import TRANSFORM, ImageTransform
from modalities.vision.model import VisionBase, load_base
from modalities.vision.pairs import Pairs
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
    _shake(model, seed, lambda name: head if "head" in name else loud * 0.1)
    transform = base.transform_at(size)
    fields = {"first_layer": len(base.tower.stages) if method == "linear_probe" else first, **fields}

    def logits(images: list[Image.Image]) -> Tensor:
        with torch.inference_mode():
            found: Tensor = model(torch.stack([to_pixels(image, transform) for image in images]))
        return found

    return Made(_sealed(base, spec, model, transform, dict(told), change, labels=labels, **fields), logits)


@dataclass(frozen=True)
class Met:
    """A sealed contrastive adapter.

    Attributes:
        folder: Its bundle.
        images: Images -> their vectors `[images, space]`, by the tuned model itself.
        texts: Texts -> theirs.
    """

    folder: Path
    images: Callable[[list[Image.Image]], Tensor]
    texts: Callable[[list[str]], Tensor]


def met(
    base_id: str,
    words: str | None,
    *,
    seed: int = 0,
    loud: float = 1.0,
    told: Mapping[str, Any] = MappingProxyType({}),
    change: Callable[[dict[str, bytes]], None] = lambda files: None,
    **fields: Any,
) -> Met:
    """Seal a contrastive adapter whose weights are drawn; `words` is the id of a tower of words of its own."""
    base = load_base(base_id, "fp32", text=words)
    spec = TrainSpec(method="contrastive", base=base_id, dataset="0" * 64, suffix="s", rank=2 + seed, alpha=8.0)
    model = methods.load(spec, "vision").attach(Pairs(base), spec, 0)
    _shake(model, seed, lambda name: 0.2 * loud)
    transform = base.config.transform
    config = {"words": {"base": words, "base_digest": base.text_digest, "first": 0}} | dict(told)
    fields = {"first_layer": len(base.tower.stages), "labels": (), **fields}

    def images(given: list[Image.Image]) -> Tensor:
        with torch.inference_mode():
            found: Tensor = model.images(base.tower(torch.stack([to_pixels(image, transform) for image in given])))
        return found

    def texts(given: list[str]) -> Tensor:
        with torch.inference_mode():
            return normalize(model.text(base.tokenizer(given)), dim=-1)

    return Met(_sealed(base, spec, model, transform, config, change, **fields), images, texts)


def _shake(model: Any, seed: int, deviation: Callable[[str], float]) -> None:
    chance = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data += torch.randn(weight.shape, generator=chance) * deviation(name)


def _sealed(
    base: VisionBase,
    spec: TrainSpec,
    model: Any,
    transform: ImageTransform,
    told: dict[str, Any],
    change: Callable[[dict[str, bytes]], None],
    **fields: Any,
) -> Path:
    module = methods.load(spec, "vision")
    config = json.loads(module.config(model, spec.base)) | {TRANSFORM: transform.model_dump(mode="json")} | told
    files = {CONFIG: canonical_json(config), WEIGHTS: bytes(save(module.weights(model), metadata={"format": "pt"}))}
    change(files)
    manifest: dict[str, Any] = {
        "base": spec.base,
        "base_digest": base.digest,
        "modality": "vision",
        "kind": "classification",
        "suffix": "s",
        "system": "",
        "template_digest": transform.digest,
        "stop_ids": (),
        "dataset": "0" * 64,
        "licence": "Apache-2.0",
        "spec": spec,
        "versions": {"torch": "0"},
    }
    return bundle_folder(seal(files, **(manifest | fields)))
