"""Adapters for pictures and recordings with invented weights, and engines for them that say what they are told to."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from moatelier.contracts import AdapterManifest, Kind, TrainSpec
from moatelier.errors import InvalidRequest
from modalities import bundle
from modalities.audio.levels import Piece
from modalities.audio.transcribing import Options, Segment, Transcript
from serving.senses import Sense, Senses
from store import adapters


@dataclass
class Eyes:
    """Knows red from blue."""

    base: str
    adapters: dict[str, AdapterManifest] = field(default_factory=dict)
    batches: list[list[str | None]] = field(default_factory=list)

    def load_adapter(self, name: str, folder: Path, pinned: bool = False) -> AdapterManifest:
        self.adapters[name] = bundle.read_manifest(folder)
        return self.adapters[name]

    def unload_adapter(self, name: str) -> None:
        del self.adapters[name]

    def classify(self, images: Sequence[Image.Image], adapters: Sequence[str | None]) -> list[list[tuple[str, float]]]:
        if None in adapters:
            raise InvalidRequest("The base has no labels.", where="model", remedy="Name an adapter.")
        self.batches.append(list(adapters))
        reds = [image.resize((1, 1)).getpixel((0, 0))[0] / 255 for image in images]  # type: ignore[index]
        return [sorted([("red", red), ("blue", 1 - red)], key=lambda pair: -pair[1]) for red in reds]

    def zero_shot(
        self, images: Sequence[Image.Image], names: Sequence[str], adapter: str | None = None
    ) -> list[list[tuple[str, float]]]:
        """Knows the colour by its name, and is sure of it."""
        if adapter is None:
            raise InvalidRequest("They never met.", where=self.base, remedy="Tune it first.")
        found = []
        for [(likeliest, _), *_] in self.classify(images, [adapter] * len(images)):
            told = [(name, float(name == likeliest)) for name in names]
            found.append(sorted(told, key=lambda pair: -pair[1]))
        return found

    def embed(self, images: Sequence[Image.Image], adapters: Sequence[str | None]) -> Any:
        return np.ones((len(images), 4), np.float32) / 2

    def embed_texts(self, texts: Sequence[str], adapter: str | None = None) -> Any:
        if adapter is None or self.adapters[adapter].kind != "retrieval":
            raise InvalidRequest("They never met.", where=self.base, remedy="Tune it first.")
        return np.array([[len(text), 0, 0, 0] for text in texts], np.float32)


@dataclass
class Ears(Eyes):
    """Hears how many seconds there are."""

    def classify(self, images: Sequence[Any], adapters: Sequence[str | None]) -> list[list[tuple[str, float]]]:
        return [[("red", 0.75), ("blue", 0.25)] for _ in images]

    def transcribe(self, sounds: Sequence[Any], adapters: Sequence[str | None], options: Options) -> list[Transcript]:
        self.batches.append(list(adapters))
        return [_transcript(len(sound) / 16_000, options) for sound in sounds]

    def pieces(self, sound: Any, adapter: str | None, options: Options) -> list[Piece]:
        """A window holds a second."""
        if adapter and self.adapters[adapter].kind != "transcription":
            raise InvalidRequest("It tells labels.", where="model", remedy="Ask /v1/classify.")
        return [Piece(start, min(start + 16_000, len(sound))) for start in range(0, len(sound), 16_000)]


def _transcript(seconds: float, options: Options) -> Transcript:
    text = said(seconds)
    segment = Segment(0.0, seconds, text, (5, 6, 7), -0.25, 0.01)
    return Transcript(text, (segment,), options.language, seconds)


def said(seconds: float) -> str:
    return f"{seconds:g} seconds"


def picture(colour: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def recording(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(int(16_000 * seconds), np.float32), 16_000, format="WAV")
    return file.getvalue()


def image_part(colour: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": picture(colour)}}


def audio_part(seconds: float) -> dict[str, Any]:
    return {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(recording(seconds)).decode(), "format": "wav"},
    }


def senses() -> Senses:
    """Such engines, behind the face that the real ones have."""
    engines = {"vision": Eyes, "audio": Ears}
    return Senses(lambda modality, base: Sense(modality, base, engines[modality]))


def sealed(modality: str, base: str, kind: Kind, suffix: str) -> Path:
    spec = TrainSpec(method="x", base=base, dataset="d" * 64, suffix=suffix)
    digest = bundle.seal(
        {"adapter_model.safetensors": suffix.encode(), "adapter_config.json": b"{}"},
        base=base,
        base_digest="b" * 64,
        modality=modality,
        kind=kind,
        suffix=suffix,
        system="",
        template_digest="t" * 64,
        stop_ids=(),
        labels=("red", "blue") if kind == "classification" else (),
        first_layer=0,
        dataset="d" * 64,
        licence="CC0-1.0",
        spec=spec,
        versions={},
    )
    return bundle.bundle_folder(digest)


def registered(modality: str, base: str, kind: Kind, suffix: str) -> adapters.AdapterRecord:
    """The same, registered."""
    manifest = bundle.read_manifest(sealed(modality, base, kind, suffix))
    return adapters.register("default", manifest, "task-1")
