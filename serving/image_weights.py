"""Adapters of images in memory: read from their bundles, and refused where they do not fit the base."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from moatelier.contracts import AdapterManifest, Contract
from moatelier.errors import IntegrityError, InvalidRequest
from modalities.bundle import CONFIG, open_bundle, read_manifest
from modalities.machine import DTYPES
from modalities.vision.classifier import HEAD
from modalities.vision.config import TRANSFORM, WORDS, ImageTransform, WordsTold
from modalities.vision.model import VisionBase
from modalities.vision.pairs import HOTTEST
from modalities.vision.tuned import lora_layers, whole_weights
from modalities.vision.word_tower import word_layers
from serving.heads import Head
from serving.hooked import shape_of
from serving.lora import Part, read_config, read_tensors, require_shapes, scaled_rank
from serving.word_towers import Words, WordTowers

T = TypeVar("T", bound=Contract)
_PEFT = "base_model.model."


@dataclass(frozen=True)
class ImageWeights:
    """An adapter of images.

    Attributes:
        transform: How images come in.
        first_layer: The first stage that it changes; the number of stages if it changes none.
        head: Names classes.
        parts: Name of a layer -> what is added there.
        stages: Stage -> the tensors that stand there for the base's.
        words: Compares images with words.
    """

    transform: ImageTransform
    first_layer: int
    head: Head | None = None
    parts: Mapping[str, Part] = field(default_factory=dict)
    stages: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    words: Words | None = None
    invocation: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Bytes, low-rank parts twice: once as they are read, once in the stack that passes use."""
        low = sum(2 * (part.a.nbytes + part.b.nbytes) for part in self.parts.values())
        whole = sum(tensor.nbytes for stage in self.stages.values() for tensor in stage.values())
        return low + whole + sum(part.bytes for part in (self.head, self.words) if part)


def read_bundle(folder: Path, base: VisionBase, towers: WordTowers) -> tuple[AdapterManifest, ImageWeights]:
    """Verify a bundle, every byte of it, and read its weights.

    Args:
        folder: Of the bundle.
        base: The base that it shall be loaded on.
        towers: Of words.

    Raises:
        NotFound: There is no bundle in the folder.
        ModelUnavailable: It was tuned with a tower of words that has not been pulled.
        IntegrityError: Changed bytes, another base or transform, a method of another engine, weights that do not fit.
    """
    manifest = read_manifest(folder)
    readers: Mapping[str, _Reader] = {**_READ, "contrastive": partial(_pairs, towers=towers)}
    read = readers.get(manifest.spec.method)
    if manifest.modality != "vision" or read is None:
        raise IntegrityError(
            f"This engine does not run adapters of {manifest.modality} by {manifest.spec.method!r}.",
            where=str(folder),
            remedy=f"It runs those of images by {', '.join(readers)}.",
        )
    transform = _told(folder, TRANSFORM, ImageTransform, "how images come in")
    open_bundle(folder, base_digest=base.digest, template_digest=transform.digest)
    try:
        base.transform_at(transform.size)
    except InvalidRequest as error:
        raise IntegrityError(error.what, where=str(folder), remedy="Tune it again on this base.") from error
    return manifest, read(folder, manifest, base, transform)


def _told(folder: Path, name: str, kind: type[T], what: str) -> T:
    """A field of the bundle's configuration."""
    try:
        return kind.model_validate(json.loads((folder / CONFIG).read_bytes())[name])
    except (OSError, ValueError, KeyError, TypeError) as error:  # a ValidationError is a ValueError
        raise IntegrityError(
            f"The adapter does not say {what}: {type(error).__name__}.",
            where=str(folder / CONFIG),
            remedy="Tune it again.",
        ) from error


def _probe(folder: Path, manifest: AdapterManifest, base: VisionBase, transform: ImageTransform) -> ImageWeights:
    tensors = read_tensors(folder)
    require_shapes(tensors, _head_shapes(manifest, base), folder)
    return ImageWeights(transform, len(base.tower.stages), _head(tensors, base))


def _blocks(folder: Path, manifest: AdapterManifest, base: VisionBase, transform: ImageTransform) -> ImageWeights:
    tensors, first = read_tensors(folder), manifest.first_layer
    own = {name: tuple(weight.shape) for name, weight in whole_weights(base.tower, first).items()}
    require_shapes(tensors, own | _head_shapes(manifest, base), folder)
    stages: dict[int, dict[str, Tensor]] = {}
    for number, stage in list(enumerate(base.tower.stages))[first:]:
        prefix = f"tower.stages.{number}."
        # Norms are the base's own, brought to float32 beside a base that is in less.
        rest = {name: tensor.float() for name, tensor in _floats(stage).items() if base.precision != "fp32"}
        tuned = {name.removeprefix(prefix): tensors[name] for name in own if name.startswith(prefix)}
        stages[number] = rest | {name: tensor.float().to(base.device) for name, tensor in tuned.items()}
    return ImageWeights(transform, first, _head(tensors, base), stages=stages)


def _floats(stage: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in [*stage.named_parameters(), *stage.named_buffers()]
        if tensor.is_floating_point()
    }


def _lora(folder: Path, manifest: AdapterManifest, base: VisionBase, transform: ImageTransform) -> ImageWeights:
    tensors = read_tensors(folder)
    root = nn.ModuleDict({"tower": base.tower})
    layers = {name: root.get_submodule(name) for name in lora_layers(base.tower, manifest.first_layer)}
    head = {f"{_PEFT}{name}": shape for name, shape in _head_shapes(manifest, base).items()}
    parts = _parts(folder, tensors, layers, base, head, saved=(HEAD,))
    return ImageWeights(transform, manifest.first_layer, _head(tensors, base, _PEFT), parts)


def _pairs(
    folder: Path, manifest: AdapterManifest, base: VisionBase, transform: ImageTransform, towers: WordTowers
) -> ImageWeights:
    tensors, told = read_tensors(folder), _told(folder, WORDS, WordsTold, "which words it was tuned with")
    tower = towers.found(told, str(folder / CONFIG))
    layers = {name: tower.module.get_submodule(name) for name in word_layers(tower.module, told.first)}
    others: dict[str, tuple[int, ...]] = {"scale": ()}
    if not base.config.zero_shot:
        others |= {"project.weight": (tower.space, base.tower.width), "project.bias": (tower.space,)}
    parts = _parts(folder, tensors, layers, base, others, prefix=f"text.{_PEFT}")
    project = None
    if not base.config.zero_shot:
        weight, bias = (tensors[f"project.{part}"].float().to(base.device) for part in ("weight", "bias"))
        project = weight, bias
    scale = min(float(tensors["scale"].exp()), HOTTEST)
    return ImageWeights(transform, len(base.tower.stages), words=Words(tower, scale, project, parts))


def _parts(
    folder: Path,
    tensors: Mapping[str, Tensor],
    layers: Mapping[str, nn.Module],
    base: VisionBase,
    others: Mapping[str, tuple[int, ...]],
    *,
    saved: tuple[str, ...] = (),
    prefix: str = _PEFT,
) -> dict[str, Part]:
    """The low-rank parts on some layers.

    Args:
        folder: Of the bundle.
        tensors: All that the bundle holds.
        layers: Where parts belong, each of them.
        base: Gives device and precision.
        others: Name and shape of all tensors beside the parts.
        saved: Modules that PEFT was told to save whole.
        prefix: Of the parts' names.

    Raises:
        IntegrityError: It is not plain LoRA, or tensors are missing, unexpected or of another shape.
    """
    config = read_config(folder, saved)
    if not layers:
        raise IntegrityError("The adapter does not fit the base: it changes none of its layers.", where=str(folder))
    wanted: dict[str, tuple[int, ...]] = {}
    for name, layer in layers.items():
        rank, _ = scaled_rank(config, name)
        inputs, outputs = shape_of(layer)
        point = (1, 1) if isinstance(layer, nn.Conv2d) else ()
        wanted |= {f"{prefix}{name}.lora_A.weight": (rank, inputs, *point)}
        wanted |= {f"{prefix}{name}.lora_B.weight": (outputs, rank, *point)}
    require_shapes(tensors, wanted | dict(others), folder)
    found = {}
    for name in layers:
        a, b = (tensors[f"{prefix}{name}.lora_{side}.weight"].float().flatten(1) for side in "AB")
        _, scale = scaled_rank(config, name)
        found[name] = Part(*(part.to(base.device, DTYPES[base.precision]) for part in (a, b * scale)))
    return found


def _head_shapes(manifest: AdapterManifest, base: VisionBase) -> dict[str, tuple[int, ...]]:
    labels = len(manifest.labels)
    return {f"{HEAD}.weight": (labels, base.tower.width), f"{HEAD}.bias": (labels,)}


def _head(tensors: Mapping[str, Tensor], base: VisionBase, prefix: str = "") -> Head:
    return Head(*(tensors[f"{prefix}{HEAD}.{part}"].float().to(base.device) for part in ("weight", "bias")))


_Reader = Callable[[Path, AdapterManifest, VisionBase, ImageTransform], ImageWeights]
_READ: Mapping[str, _Reader] = {"linear_probe": _probe, "top_blocks": _blocks, "image_lora": _lora}
"""Method -> what reads its bundles."""
