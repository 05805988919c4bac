"""An image adapter as ONNX: the tower with its head, or the towers of images and of words brought together."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from moatelier.contracts import AdapterManifest, ExportSpec
from moatelier.errors import InvalidRequest
from modalities import catalogue
from modalities.bundle import CONFIG, bundle_folder, open_bundle
from modalities.vision.classifier import Classifier
from modalities.vision.config import TRANSFORM, WORDS, ImageTransform, WordsTold
from modalities.vision.images import decode_image
from modalities.vision.model import VisionBase, load_base
from modalities.vision.pairs import Pairs
from modalities.vision.pixels import to_pixels
from serving import parts
from serving.lora import read_tensors
from serving.seeing import VisionEngine
from training import methods
from training.export import Answer, Prompts, Reading
from training.export.graphs import READER, Graph, write_graph

IMAGES, TEXTS = "images.onnx", "texts.onnx"
TOLD = "inputs.json"
"""How pixels come in and, for classes, what the outputs are called."""


class VisionExport:
    """See `training.export`."""

    tolerance, score_tolerance = 1e-3, 0.0

    def __init__(self, spec: ExportSpec, manifest: AdapterManifest) -> None:
        self._manifest, self._folder = manifest, bundle_folder(spec.bundle)
        told = json.loads((self._folder / CONFIG).read_bytes())
        self._transform = ImageTransform.model_validate(told[TRANSFORM])
        self._words = WordsTold.model_validate(told[WORDS]) if manifest.spec.method == "contrastive" else None
        folders = [catalogue.folder(manifest.base)]
        if self._words and self._words.base:
            folders.append(catalogue.folder(self._words.base))
        self.size = 2 * sum(file.stat().st_size for folder in folders for file in folder.glob("*.safetensors"))
        self._captions: list[str] = []
        self._pixels = torch.zeros(0)
        self._expected: tuple[Tensor, ...] = ()
        self._tokens = torch.zeros(0)
        self._merge_difference: float | None = None

    def ask(self, prompts: Prompts, truths: Sequence[str]) -> list[Answer]:
        """Labels by the engine, or which of the captions it finds nearest."""
        engine = VisionEngine(self._manifest.base, "fp32")
        engine.load_adapter("it", self._folder)
        images = [_image(messages) for messages in prompts]
        self._pixels = torch.stack([to_pixels(image, self._transform) for image in images])
        self._captions = sorted(set(truths))
        names = ["it"] * len(images)
        if self._words is None:
            self._expected = (torch.stack(engine.logits(images, names)),)
            return self._named(self._expected[0])
        vectors = (engine.embed(images, names), engine.embed_texts(self._captions, "it"))
        self._expected = tuple(torch.from_numpy(found) for found in vectors)
        return self._found(*self._expected)

    def write(self, folder: Path) -> None:
        """The graphs, with low-rank parts merged in float32, and how their inputs come in."""
        base = load_base(self._manifest.base, "fp32", text=self._words.base if self._words else None)
        open_bundle(self._folder, base_digest=base.digest, template_digest=self._transform.digest)
        told: dict[str, Any] = {"pixels": self._transform.model_dump(mode="json"), "labels": self._manifest.labels}
        if self._words is None:
            model = self._merged(self._tuned(Classifier(base.tower, len(self._manifest.labels))), base)
            write_graph(model, {"pixels": self._pixels[:1].repeat(2, 1, 1, 1)}, "logits", folder / IMAGES)
        else:
            self._write_towers(folder, base)
            told |= {"texts": f"token ids by the tokenizer of {self._words.base or self._manifest.base}"}
        (folder / TOLD).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def read(self, folder: Path) -> Reading:
        """By onnxruntime."""
        seen = _in_turns(Graph(folder / IMAGES), self._pixels)
        if self._words is None:
            differences = (seen - self._expected[0]).abs().flatten(1).amax(1).tolist()
            return Reading(READER, self._named(seen), differences, self._merge_difference)
        texts = Graph(folder / TEXTS)(tokens=self._tokens)
        apart = float((texts - self._expected[1]).abs().max())
        differences = (seen - self._expected[0]).abs().flatten(1).amax(1).clamp(min=apart).tolist()
        return Reading(READER, self._found(seen, texts), differences, self._merge_difference)

    def _tuned(self, model: Any) -> Any:
        """The model with the adapter's tensors in it, as training leaves it."""
        spec, method = self._manifest.spec, methods.load(self._manifest.spec, "vision")
        first = self._words.first if self._words else self._manifest.first_layer
        if self._manifest.spec.method == "linear_probe":
            first = 0
        tuned = method.attach(model, spec, first)
        method.restore(tuned, read_tensors(self._folder))
        return tuned.eval()

    def _merged(self, model: Any, base: VisionBase) -> Any:
        """Plain layers for PEFT's, and by how much that changes what comes out."""
        if not hasattr(model, "merge_and_unload"):
            return model
        with torch.inference_mode():
            before = model(self._pixels.to(base.device))
            plain = model.merge_and_unload(safe_merge=True)
            self._merge_difference = float((plain(self._pixels.to(base.device)) - before).abs().max())
        return plain

    def _write_towers(self, folder: Path, base: VisionBase) -> None:
        assert self._words is not None
        pairs = self._tuned(Pairs(base))
        self._tokens = base.tokenizer(self._captions).to(base.device)
        with torch.inference_mode():
            before = pairs.text(self._tokens)
            pairs.text = pairs.text.merge_and_unload(safe_merge=True)
            self._merge_difference = float((pairs.text(self._tokens) - before).abs().max())
        two = self._pixels[:1].repeat(2, 1, 1, 1)
        write_graph(_Images(base, pairs), {"pixels": two}, "vectors", folder / IMAGES)
        tokens = self._tokens[:1].repeat(2, 1)
        write_graph(_Texts(pairs), {"tokens": tokens}, "vectors", folder / TEXTS, free=("tokens",))

    def _named(self, logits: Tensor) -> list[Answer]:
        return [Answer((best,), self._manifest.labels[best]) for best in logits.argmax(-1).tolist()]

    def _found(self, images: Tensor, texts: Tensor) -> list[Answer]:
        nearest = (images @ texts.T).argmax(-1).tolist()
        return [Answer((best,), self._captions[best]) for best in nearest]


class _Images(nn.Module):
    """Pixels to vectors of unit length in the space of the words."""

    def __init__(self, base: VisionBase, pairs: Pairs) -> None:
        super().__init__()
        self.tower, self.project = base.tower, pairs.project

    def forward(self, pixels: Tensor) -> Tensor:
        return normalize(self.project(self.tower(pixels)), dim=-1)


class _Texts(nn.Module):
    """Token ids to vectors of unit length."""

    def __init__(self, pairs: Pairs) -> None:
        super().__init__()
        self.text = pairs.text

    def forward(self, tokens: Tensor) -> Tensor:
        return normalize(self.text(tokens), dim=-1)


def _in_turns(graph: Graph, pixels: Tensor, size: int = 16) -> Tensor:
    return torch.cat([graph(pixels=pixels[start : start + size]) for start in range(0, len(pixels), size)])


def _image(messages: Any) -> Image.Image:
    part = parts.last(messages, "image", stored=True)
    if part is None:
        raise InvalidRequest("The row has no image.", where="messages")
    return decode_image(part.data, part.where)
