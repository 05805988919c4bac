"""The engine for recordings: one Whisper, any number of adapters in one batch. No server, no threads of its own.

Each adapter hears the window that it was tuned with; recordings that are heard in the same window are encoded and
decoded together, whoever hears them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import normalize

from moatelier.contracts import AdapterManifest, Kind
from moatelier.errors import IntegrityError, InvalidRequest
from moatelier.ids import digest_bytes
from moatelier.settings import settings
from modalities.audio.config import LONGEST_WINDOW_S, RATE, samples
from modalities.audio.decoding import Options, checked
from modalities.audio.levels import Samples
from modalities.audio.model import load_base
from modalities.audio.sound import decode_sound
from modalities.audio.transcribing import Transcript
from serving import parts
from serving.adapters import Adapters, Loaded
from serving.audio_adapters import Ear, read_adapter
from serving.listening import Listener, Question
from serving.lora import LoraWeights
from serving.memory import Memory
from serving.remembered import Remembered
from serving.row import Completion
from serving.sampling import Sampling

__all__ = ["AudioEngine", "Labels", "Options", "Transcript"]

Labels = list[tuple[str, float]]
"""Labels with their probabilities, best first."""

_CHUNK = 64
"""Recordings that `generate` has in memory at once."""
_TRANSCRIPT_BYTES = 2_000
"""Of a remembered transcript without its texts and tokens."""
_CANARY_S = 0.5
_WINDOWS_S = (3.0, 10.0, LONGEST_WINDOW_S)
"""In which the base hears what it only embeds."""


class AudioEngine:
    """Transcribes and classifies with a base and its adapters. Not for several threads.

    Args:
        base_id: A catalogue id; the base must have been pulled.
        precision: None takes the setting; `auto` is bf16 where the machine is fast at it, and so is what the setting
            has for text alone.
        memory_gb: For adapters, encoder states and transcripts together; None takes the setting.

    Raises:
        ModelUnavailable: The base has not been pulled, or is no model of speech.
    """

    def __init__(
        self,
        base_id: str,
        precision: Literal["auto", "bf16", "fp32"] | None = None,
        memory_gb: float | None = None,
    ) -> None:
        wished = precision or settings().precision
        self.base = load_base(base_id, "auto" if wished == "int8" or wished == "int4" else wished)
        self.precision = self.base.precision
        self.memory = Memory(int((memory_gb or settings().engine_memory_gb) * 1e9))
        self.listener = Listener(self.base, self.memory)
        self.said: Remembered[Transcript] = Remembered("said", self.memory)
        self._ears: dict[str, Ear] = {}
        self._adapters = Adapters(self.memory, self._read, lambda loaded: self.listener.lora.forget(loaded.digest))

    # ---------------------------------------------------------------------------------------------------- adapters

    @property
    def adapters(self) -> dict[str, AdapterManifest]:
        """Loaded adapters by name."""
        return {loaded.name: loaded.manifest for loaded in self._adapters.all()}

    def load_adapter(self, name: str, bundle: Path, pinned: bool = False) -> AdapterManifest:
        """Verify a sealed bundle and load it under a name. The same bundle again changes nothing.

        Args:
            name: What requests will call it.
            bundle: Its folder.
            pinned: Never evict its weights.

        Raises:
            NotFound: There is no bundle in the folder.
            IntegrityError: Changed bytes, another base or window, weights that do not fit, or an adapter that does not
                change what the base says.
            Conflict: The name stands for another bundle.
            ResourceExhausted: Memory has no room for it.
        """
        new = name not in self.adapters
        try:
            loaded = self._adapters.add(name, bundle, pinned)
            if new:
                try:
                    self._check_canary(loaded)
                except BaseException:  # whatever went wrong, nobody may be answered by what was not checked
                    self._adapters.remove(name)
                    raise
        finally:
            self._forget_ears()
        return loaded.manifest

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            NotFound: No adapter of this name is loaded.
        """
        self._adapters.remove(name)
        self._forget_ears()

    def rest(self) -> None:
        """Nobody has asked for a while: let go of what is remembered."""
        self.said.clear()
        self.listener.states.clear()

    # ----------------------------------------------------------------------------------------------------- answers

    def transcribe(
        self, recordings: Sequence[Samples], adapters: Sequence[str | None], options: Options | None = None
    ) -> list[Transcript]:
        """What each recording says, each by its own adapter. In float32 the texts are those of one at a time.

        Args:
            recordings: Samples at 16 kHz in -1..1, of any length.
            adapters: Names of loaded adapters, one for each recording; None is the base, which hears 30 s at once.
            options: How to decode, the same for all.

        Raises:
            NotFound: No adapter of this name is loaded.
            InvalidRequest: An adapter tells labels, or the options do not fit the model or each other.
        """
        asked = options or Options()
        checked(asked, self.base)
        with self._questions(recordings, adapters, "transcription") as questions:
            if asked.temperature:  # the same question may be answered otherwise each time
                return self._transcribe(questions, asked)
            known: dict[Question, Transcript] = {}
            for question in dict.fromkeys(questions):
                if said := self.said.get((question.digest, question.owner, asked)):
                    known[question] = said
            fresh = [question for question in dict.fromkeys(questions) if question not in known]
            for question, said in zip(fresh, self._transcribe(fresh, asked), strict=True):
                known[question] = said
                self.said.put((question.digest, question.owner, asked), said, _size(said))
            return [known[question] for question in questions]

    def classify(self, recordings: Sequence[Samples], adapters: Sequence[str | None]) -> list[Labels]:
        """The labels of each recording with their probabilities, each by its own adapter.

        Those of a recording that is longer than the window are the mean over its pieces, by their lengths.

        Args:
            recordings: Samples at 16 kHz in -1..1, of any length.
            adapters: Names of loaded adapters, one for each recording.

        Raises:
            NotFound: No adapter of this name is loaded.
            InvalidRequest: An adapter tells words, or it is the base, which has no labels.
        """
        with self._questions(recordings, adapters, "classification") as questions:
            groups: dict[float, list[int]] = defaultdict(list)
            for place, question in enumerate(questions):
                groups[question.window_s].append(place)
            chances: dict[int, torch.Tensor] = {}
            for places in groups.values():
                for number, share, mean in self.listener.means([questions[place] for place in places]):
                    place = places[number]
                    part = share * _logits(questions[place], mean).softmax(-1)
                    chances[place] = chances[place] + part if place in chances else part
        labels = [self._adapters.get(str(name)).manifest.labels for name in adapters]
        return [_ranked(known, chances[place].tolist()) for place, known in enumerate(labels)]

    def embed(self, recordings: Sequence[Samples], adapters: Sequence[str | None]) -> npt.NDArray[np.float32]:
        """Vectors of unit length `[recordings, width]`: the mean of the encoder's states over each recording.

        Args:
            recordings: Samples at 16 kHz in -1..1, of any length.
            adapters: Names of loaded adapters, one for each recording; None is the base, which hears short ones in
                short windows here.

        Raises:
            NotFound: No adapter of this name is loaded.
        """
        with self._questions(recordings, adapters) as questions:
            found = torch.zeros(len(questions), self.base.config.n_audio_state)
            groups: dict[float, list[int]] = defaultdict(list)
            for place, question in enumerate(questions):
                if question.ear is None:
                    questions[place] = question = replace(question, ear=_ear(question.sound))
                groups[question.window_s].append(place)
            for places in groups.values():
                for number, share, mean in self.listener.means([questions[place] for place in places]):
                    found[places[number]] += share * mean.cpu()
        vectors: npt.NDArray[np.float32] = normalize(found, dim=-1).numpy()
        return vectors

    def generate(
        self,
        prompts: Sequence[Sequence[Mapping[str, Any]]],
        *,
        adapter: str | None = None,
        sampling: Sampling | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Answer conversations about recordings as an engine for text answers its own: by transcript or label.

        Args:
            prompts: Conversations; the last recording in each, `{"type": "audio", "artifact": "<digest>"}` or as
                clients send it, is what is asked about. With `"goal": "label"` beside the artifact a label is wanted:
                then the base, which knows none, answers "".
            adapter: Name of a loaded adapter; None is the base.
            sampling: Gives temperature and the most tokens of a window; the rest of it has no meaning here.
            progress: Called with the number of answers so far whenever it has grown; may raise to stop.

        Raises:
            NotFound: No adapter of this name is loaded, or an artifact is gone.
            InvalidRequest: A prompt has no recording; `where` says which, counted from 0.
            DataError: A recording cannot be decoded.
        """
        kind = None if adapter is None else self._adapters.get(adapter).manifest.kind
        options = Options(temperature=sampling.temperature, max_tokens=sampling.max_tokens) if sampling else Options()
        answers: list[Completion] = []
        for start in range(0, len(prompts), _CHUNK):
            chunk = prompts[start : start + _CHUNK]
            sounds = [_recording(messages, start + n) for n, messages in enumerate(chunk)]
            if kind == "classification":
                answers += [_label(labels) for labels in self.classify(sounds, [adapter] * len(sounds))]
            else:
                said = self.transcribe(sounds, [adapter] * len(sounds), options)
                answers += [
                    _NOTHING if kind is None and _wants_label(messages) else _words(transcript)
                    for messages, transcript in zip(chunk, said, strict=True)
                ]
            if progress:
                progress(len(answers))
        return answers

    # ------------------------------------------------------------------------------------------------- a question

    @contextmanager
    def _questions(
        self, recordings: Sequence[Samples], adapters: Sequence[str | None], kind: Kind | None = None
    ) -> Iterator[list[Question]]:
        """The questions, with the weights of their adapters held in memory.

        Raises:
            NotFound: No adapter of this name is loaded.
            InvalidRequest: One is not of this kind; None takes all.
        """
        subjects = [None if name is None else self._adapters.get(name) for name in adapters]
        for loaded in subjects:
            told = "transcription" if loaded is None else loaded.manifest.kind
            if kind and told != kind:
                raise _other_kind(loaded, kind)
        present = {loaded for loaded in subjects if loaded}
        held: list[Loaded[LoraWeights]] = []
        try:
            for loaded in present:
                self._adapters.hold(loaded)
                held.append(loaded)
            yield [self._question(sound, loaded) for sound, loaded in zip(recordings, subjects, strict=True)]
        finally:
            for loaded in held:
                self._adapters.release(loaded)

    def _question(self, sound: Samples, loaded: Loaded[LoraWeights] | None) -> Question:
        digest = digest_bytes(np.ascontiguousarray(sound, np.float32).tobytes())
        if loaded is None:
            return Question(digest, self.base.digest, sound)
        return Question(digest, loaded.digest, sound, self._ears[loaded.digest], loaded.weights)

    def _transcribe(self, questions: Sequence[Question], asked: Options) -> list[Transcript]:
        groups: dict[Any, list[int]] = defaultdict(list)
        for place, question in enumerate(questions):
            groups[self.listener.company(question, asked)].append(place)
        found: dict[int, Transcript] = {}
        for places in groups.values():
            said = self.listener.transcribe([questions[place] for place in places], asked)
            found |= zip(places, said, strict=True)
        return [found[place] for place in range(len(questions))]

    # -------------------------------------------------------------------------------------------------- adapters

    def _read(self, folder: Path) -> tuple[AdapterManifest, LoraWeights]:
        manifest, weights, ear = read_adapter(folder, self.base, self.listener.windowed)
        self._ears[manifest.digest] = ear
        return manifest, weights

    def _forget_ears(self) -> None:
        known = {loaded.digest for loaded in self._adapters.all()}
        self._ears = {digest: ear for digest, ear in self._ears.items() if digest in known}

    def _check_canary(self, loaded: Loaded[LoraWeights]) -> None:
        """An adapter that changes nothing is one that silently was not applied (peft#2115, vllm#48019)."""
        ear = self._ears[loaded.digest]
        size = samples(min(ear.window_s, _CANARY_S))
        sound = np.random.default_rng(0).normal(0, 0.1, size).astype(np.float32)
        tuned = Question("canary", loaded.digest, sound, ear, loaded.weights)
        if loaded.manifest.kind == "classification":
            [(_, _, mean)] = self.listener.means([tuned])
            said = _logits(tuned, mean)
            before = said[:1].expand_as(said)  # the base knows no labels: all are the same to it
        else:
            said, before = (self.listener.canary(one) for one in (tuned, replace(tuned, weights=None)))
        if not bool(said.isfinite().all()):
            raise IntegrityError(
                "The adapter's logits are not finite.", where=str(loaded.path), remedy="Tune it again."
            )
        if torch.equal(said, before):
            what = "The adapter does not change what the base says."
            raise IntegrityError(what, where=str(loaded.path), remedy="Tune it again, with more steps.")


_NOTHING = Completion("", (), "stop", 0, 1)


def _recording(messages: Sequence[Mapping[str, Any]], number: int) -> Samples:
    part = parts.last(messages, "audio", stored=True)
    if part is None:
        raise InvalidRequest(
            "The prompt has no recording.", where=f"messages of prompt {number}", remedy="Add a part of type `audio`."
        )
    return decode_sound(part.data, part.where).samples


def _wants_label(messages: Sequence[Mapping[str, Any]]) -> bool:
    content = messages[-1].get("content") if messages else None
    return any(part.get("goal") == "label" for part in content) if isinstance(content, list) else False


def _words(said: Transcript) -> Completion:
    tokens = tuple(token for segment in said.segments for token in segment.tokens)
    return Completion(said.text, tokens, "stop", 0, len(tokens) + max(1, len(said.segments)))


def _label(labels: Labels) -> Completion:
    return Completion(labels[0][0], (), "stop", 0, 1)


def _ranked(labels: Sequence[str], chances: Sequence[float]) -> Labels:
    return sorted(zip(labels, chances, strict=True), key=lambda told: -told[1])


def _logits(question: Question, mean: torch.Tensor) -> torch.Tensor:
    """Of the labels, `[labels]` in float32."""
    assert question.ear is not None and question.ear.head is not None, "an adapter of this kind has a head"
    weight, bias = question.ear.head
    return torch.nn.functional.linear(mean, weight, bias)


def _ear(sound: Samples) -> Ear:
    """The base in the shortest window that holds a recording."""
    seconds = len(sound) / RATE
    return Ear(next((window for window in _WINDOWS_S if seconds <= window), LONGEST_WINDOW_S), False, None, None)


def _size(said: Transcript) -> int:
    return _TRANSCRIPT_BYTES + sum(2 * len(segment.text) + 40 * len(segment.tokens) + 200 for segment in said.segments)


def _other_kind(loaded: Loaded[LoraWeights] | None, kind: Kind) -> InvalidRequest:
    name = "The base" if loaded is None else f"The adapter {loaded.name!r}"
    does, wanted = ("words", "labels") if kind == "classification" else ("labels", "words")
    return InvalidRequest(
        f"{name} tells {does} of recordings, not {wanted}.",
        where="model",
        remedy=f"Use an adapter that was tuned to tell {wanted}.",
    )
