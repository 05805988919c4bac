"""An adapter of recordings as ONNX: Whisper's encoder with what the adapter changes in it, and with its head.

A transcript needs the decoder too. Where the adapter changes that, its merged tensors lie beside the encoder, named as
openai-whisper has them.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moatelier.contracts import AdapterManifest, ExportSpec
from moatelier.errors import InvalidRequest
from modalities import catalogue
from modalities.audio.classifier import Classifier
from modalities.audio.config import LANGUAGE, LONGEST_WINDOW_S, PLACE, RATE, WINDOW
from modalities.audio.levels import Samples
from modalities.audio.model import AudioBase, features, load_base
from modalities.audio.sound import decode_sound
from modalities.audio.transcribing import Options, transcribe
from modalities.bundle import CONFIG, bundle_folder, open_bundle
from serving import parts
from serving.hearing import AudioEngine
from serving.lora import read_tensors
from serving.sampling import Sampling
from training import methods
from training.export import Answer, Prompts, Reading
from training.export.graphs import READER, Graph, write_graph

ENCODER, DECODER, TOLD = "encoder.onnx", "decoder.safetensors", "inputs.json"
ANSWER_TOKENS = 64


class AudioExport:
    """See `training.export`."""

    tolerance, score_tolerance = 1e-2, 0.0

    def __init__(self, spec: ExportSpec, manifest: AdapterManifest) -> None:
        self._manifest, self._folder = manifest, bundle_folder(spec.bundle)
        told = json.loads((self._folder / CONFIG).read_bytes())
        self._window_s = float(told.get(WINDOW, LONGEST_WINDOW_S))
        self._place, self._language = told.get(PLACE, "both"), told.get(LANGUAGE)
        self._labels = manifest.labels if manifest.kind == "classification" else ()
        self.size = 2 * sum(file.stat().st_size for file in catalogue.folder(manifest.base).glob("*.safetensors"))
        self._sounds: list[Samples] = []
        self._base: AudioBase | None = None
        self._expected = torch.zeros(0)
        self._merge_difference: float | None = None

    def ask(self, prompts: Prompts, truths: Sequence[str]) -> list[Answer]:
        """Labels or transcripts by the engine."""
        engine = AudioEngine(self._manifest.base, "fp32")
        engine.load_adapter("it", self._folder)
        self._sounds = [_recording(messages) for messages in prompts]
        given = engine.generate(prompts, adapter="it", sampling=Sampling(max_tokens=ANSWER_TOKENS))
        return [self._answer(one.text) for one in given]

    def write(self, folder: Path) -> None:
        """The encoder as a graph, the decoder's tensors where they are changed, and how recordings come in."""
        base = load_base(self._manifest.base, "fp32").with_window(self._window_s)
        open_bundle(self._folder, base_digest=base.digest, template_digest=base.template_digest)
        bare: Any = Classifier(base.model.encoder, len(self._labels)) if self._labels else base.model
        method, spec = methods.load(self._manifest.spec, "audio"), self._manifest.spec
        model = method.attach(bare, spec, self._manifest.first_layer, shape=base.config, place=self._place)
        method.restore(model, read_tensors(self._folder))
        mels, lengths = self._heard(base)
        lengths = lengths.to(base.device)
        with torch.inference_mode():
            before = self._states(model.eval(), mels, lengths)
            plain = model.merge_and_unload(safe_merge=True)
            self._expected = self._states(plain, mels, lengths)
            self._merge_difference = float((self._expected - before).abs().max())
        self._expected = before
        self._write(folder, plain, base, mels)
        self._base = base

    def _write(self, folder: Path, plain: Any, base: AudioBase, mels: Tensor) -> None:
        two = {"mels": mels[:1].repeat(2, 1, 1)}
        if self._labels:
            write_graph(_Labels(plain), two | {"samples": torch.tensor([RATE, RATE])}, "logits", folder / ENCODER)
        else:
            write_graph(plain.encoder, two, "states", folder / ENCODER)
            if self._place != "encoder":
                save_file({n: t.contiguous() for n, t in plain.decoder.state_dict().items()}, folder / DECODER)
        told = {
            "window_s": self._window_s,
            "rate": RATE,
            "mels": base.config.n_mels,
            "language": self._language,
            "labels": self._labels,
        }
        (folder / TOLD).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def read(self, folder: Path) -> Reading:
        """Encoder by onnxruntime; transcripts by openai-whisper's decoder on top of it."""
        assert self._base is not None
        graph, (mels, lengths) = Graph(folder / ENCODER), self._heard(self._base)
        found = torch.cat([graph(**self._feeds(mels[n : n + 1], lengths[n : n + 1])) for n in range(len(mels))])
        differences = (found - self._expected).abs().flatten(1).amax(1).tolist()
        if self._labels:
            answers = [self._answer(self._labels[best]) for best in found.argmax(-1).tolist()]
        else:
            answers = [self._answer(text) for text in self._transcripts(folder, graph)]
        return Reading(READER, answers, differences, self._merge_difference)

    def _transcripts(self, folder: Path, graph: Graph) -> list[str]:
        base = load_base(self._manifest.base, "fp32")
        if (folder / DECODER).exists():
            base.whole.decoder.load_state_dict(load_file(folder / DECODER), strict=True)
        base = base.with_window(self._window_s)
        base.model._modules["encoder"] = _Elsewhere(graph)
        options = Options(language=self._language, max_tokens=ANSWER_TOKENS)
        return [said.text for said in transcribe(replace(base), self._sounds, options)]

    def _heard(self, base: AudioBase) -> tuple[Tensor, Tensor]:
        """Spectrograms of what fits into the window, and their lengths in samples."""
        size = int(self._window_s * RATE)
        clips = [np.asarray(sound[:size], np.float32) for sound in self._sounds]
        return features(clips, base), torch.tensor([len(clip) for clip in clips])

    def _feeds(self, mels: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        return {"mels": mels} | ({"samples": lengths} if self._labels else {})

    def _states(self, model: Any, mels: Tensor, lengths: Tensor) -> Tensor:
        found: Tensor = model(mels, lengths) if self._labels else model.encoder(mels)
        return found.float().cpu()

    def _answer(self, text: str) -> Answer:
        if self._labels:
            return Answer((self._labels.index(text),), text)
        return Answer(tuple(text.encode()), text)  # a transcript is compared letter by letter


class _Labels(nn.Module):
    """Spectrograms and lengths to logits."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, mels: Tensor, samples: Tensor) -> Tensor:
        logits: Tensor = self.classifier(mels, samples)
        return logits


class _Elsewhere(nn.Module):
    """An encoder that onnxruntime runs."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph

    def forward(self, mels: Tensor) -> Tensor:
        return self._graph(mels=mels.float())


def _recording(messages: Any) -> Samples:
    part = parts.last(messages, "audio", stored=True)
    if part is None:
        raise InvalidRequest("The row has no recording.", where="messages")
    return decode_sound(part.data, part.where).samples
