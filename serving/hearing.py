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
from torch import Tensor
from torch.nn.functional import normalize

from moatelier.contracts import AdapterManifest, Kind
from moatelier.errors import IntegrityError, InvalidRequest
from moatelier.ids import digest_bytes
from moatelier.settings import settings
from modalities.audio.config import LONGEST_WINDOW_S, RATE, samples
from modalities.audio.decoding import Options, checked
from modalities.audio.levels import Piece, Samples, cut
from modalities.audio.model import load_base
from modalities.audio.sound import decode_sound
from modalities.audio.transcribing import Transcript
from serving import parts
from serving.adapters import Adapters
from serving.audio_weights import AudioWeights, read_bundle
from serving.listening import Adapter, Listener, Question
from serving.memory import Memory, return_to_system
from serving.remembered import Remembered
from serving.row import Completion
from serving.sampling import Sampling

__all__ = ["AudioEngine", "Labels", "Options", "Transcript"]

Messages = Sequence[Mapping[str, Any]]
Labels = list[tuple[str, float]]
"""Labels with their probabilities, best first."""

_CHUNK = 64
"""Recordings that `generate` has in memory at once."""
_TRANSCRIPT_BYTES = 2_000
"""Of a remembered transcript without its texts and tokens."""
_CANARY_S = 0.5
_SNUG_S = (3.0, 10.0, LONGEST_WINDOW_S)
_SHARE = 4
"""The engine stands beside one for text, so it takes this part of the setting."""


class AudioEngine:
    """Transcribes and classifies with a base and its adapters. Not for several threads.

    Args:
        base_id: A catalogue id; the base must have been pulled.
        precision: None takes the setting; `auto` is bf16 where the machine is fast at it, and so is what the setting
            has for text alone.
        memory_gb: For adapters, encoder states and transcripts together; None is a quarter of the setting.

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
        self.memory = Memory(int((memory_gb or settings().engine_memory_gb / _SHARE) * 1e9))
        self.said: Remembered[Transcript] = Remembered("said", self.memory)
        self.states: Remembered[Tensor] = Remembered("states", self.memory)
        self.listener = Listener(self.base, self.states)
        self._adapters: Adapters[AudioWeights] = Adapters(
            self.memory, self._read, self.listener.forget, self._check_canary
        )

    # ---------------------------------------------------------------------------------------------------- adapters

    @property
    def adapters(self) -> dict[str, AdapterManifest]:
        """Loaded adapters by name."""
        return self._adapters.manifests

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
        return self._adapters.add(name, bundle, pinned).manifest

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            NotFound: No adapter of this name is loaded.
        """
        self._adapters.remove(name)

    def rest(self) -> None:
        """Nobody has asked for a while: let go of what is remembered, and of what memory that leaves."""
        self.said.clear()
        self.states.clear()
        return_to_system()

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
        with self._held(adapters, "transcription") as loaded:
            questions = [self._question(*pair) for pair in zip(recordings, loaded, strict=True)]
            if asked.temperature:  # the same question may be answered otherwise each time
                return self._transcribe(questions, asked)
            known: dict[Question, Transcript] = {}
            for question in dict.fromkeys(questions):
                if said := self.said.get(_name(question, asked)):
                    known[question] = said
            fresh = [question for question in dict.fromkeys(questions) if question not in known]
            for question, said in zip(fresh, self._transcribe(fresh, asked), strict=True):
                known[question] = said
                self.said.put(_name(question, asked), said, _size(said))
            return [known[question] for question in questions]

    def pieces(self, recording: Samples, adapter: str | None, options: Options | None = None) -> list[Piece]:
        """Where `transcribe` cuts a recording, for those who want to hear it piece by piece; none where it is silent.

        Args:
            recording: Samples at 16 kHz in -1..1, of any length.
            adapter: Name of a loaded adapter; None is the base.
            options: How the pieces are to be decoded.

        Raises:
            NotFound: No adapter of this name is loaded.
            InvalidRequest: The adapter tells labels, or the options do not fit the model or each other.
        """
        checked(options or Options(), self.base)
        with self._held([adapter], "transcription") as [loaded]:
            return cut(recording, self._question(recording, loaded).window_s)

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
        with self._held(adapters, "classification") as loaded:
            questions = [self._question(*pair) for pair in zip(recordings, loaded, strict=True)]
            found = []
            for question, parts in zip(questions, self.listener.means(questions), strict=True):
                assert question.adapter is not None
                chances = torch.stack([share * _logits(question, mean).softmax(-1) for share, mean in parts]).sum(0)
                found.append(_ranked(question.adapter.manifest.labels, chances.tolist()))
            return found

    def embed(self, recordings: Sequence[Samples], adapters: Sequence[str | None]) -> npt.NDArray[np.float32]:
        """Vectors of unit length `[recordings, width]`: the mean encoder state, as the adapter or the base hears it.

        The base takes the shortest of a few windows that holds a recording, so that short ones cost little.

        Raises:
            NotFound: No adapter of this name is loaded.
        """
        with self._held(adapters) as loaded:
            questions = [
                self._question(sound, adapter, None if adapter else _snug(sound))
                for sound, adapter in zip(recordings, loaded, strict=True)
            ]
            means = [
                torch.stack([share * mean for share, mean in parts]).sum(0) for parts in self.listener.means(questions)
            ]
            if not means:
                return np.zeros((0, self.base.config.n_audio_state), np.float32)
            return np.asarray(normalize(torch.stack(means), dim=-1).cpu().numpy(), np.float32)

    def generate(
        self,
        prompts: Sequence[Messages],
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
            sampling: Gives temperature, seed and the most tokens of a window; the rest of it has no meaning here.
            progress: Called with the number of answers so far whenever it has grown; may raise to stop.

        Raises:
            NotFound: No adapter of this name is loaded, or an artifact is gone.
            InvalidRequest: A prompt has no recording; `where` says which, counted from 0.
            DataError: A recording cannot be decoded.
        """
        answers: list[Completion] = []
        for start in range(0, len(prompts), _CHUNK):
            chunk = prompts[start : start + _CHUNK]
            sounds = [_recording(messages, start + n) for n, messages in enumerate(chunk)]
            answers += self._answers(chunk, sounds, adapter, sampling)
            if progress:
                progress(len(answers))
        return answers

    def _answers(
        self,
        prompts: Sequence[Messages],
        sounds: Sequence[Samples],
        adapter: str | None,
        sampling: Sampling | None,
    ) -> list[Completion]:
        if adapter is not None and self._adapters.get(adapter).manifest.kind == "classification":
            return [_label(labels) for labels in self.classify(sounds, [adapter] * len(sounds))]
        options = Options()
        if sampling:
            seed = sampling.seed if sampling.temperature else None
            options = Options(temperature=sampling.temperature, seed=seed, max_tokens=sampling.max_tokens)
        answers = [_NOTHING] * len(prompts)
        asked = [n for n, messages in enumerate(prompts) if adapter or not _wants_label(messages)]
        said = self.transcribe([sounds[n] for n in asked], [adapter] * len(asked), options)
        for n, transcript in zip(asked, said, strict=True):
            answers[n] = _words(transcript)
        return answers

    # ------------------------------------------------------------------------------------------------- a question

    @contextmanager
    def _held(self, names: Sequence[str | None], kind: Kind | None = None) -> Iterator[list[Adapter | None]]:
        """The adapters of these names, None for the base, with their weights in memory meanwhile.

        Raises:
            NotFound: No adapter of this name is loaded.
            InvalidRequest: One is not of the kind that is asked for.
        """
        loaded = [None if name is None else self._adapters.get(name) for name in names]
        for each in loaded:
            if kind and kind != ("transcription" if each is None else each.manifest.kind):
                raise _other_kind(each, kind)
        held: list[Adapter] = []
        try:
            for adapter in dict.fromkeys(each for each in loaded if each):
                self._adapters.hold(adapter)
                held.append(adapter)
            yield loaded
        finally:
            for adapter in held:
                self._adapters.release(adapter)

    def _question(self, sound: Samples, adapter: Adapter | None, window_s: float | None = None) -> Question:
        own = adapter.weights.window_s if adapter and adapter.weights else LONGEST_WINDOW_S
        plain = np.ascontiguousarray(sound, np.float32)
        return Question(digest_bytes(plain.tobytes()), adapter, window_s or own, plain)

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

    def _read(self, folder: Path) -> tuple[AdapterManifest, AudioWeights]:
        return read_bundle(folder, self.base, self.listener.windowed)

    def _check_canary(self, loaded: Adapter) -> None:
        """An adapter that changes nothing is one that silently was not applied (peft#2115, vllm#48019)."""
        noise = np.random.default_rng(0).normal(0, 0.1, samples(_CANARY_S)).astype(np.float32)
        with self._held([loaded.name]):
            tuned = self._question(noise, loaded)
            tuned = replace(tuned, sound=noise[: samples(min(_CANARY_S, tuned.window_s))])
            if loaded.manifest.kind == "classification":
                [[(_, mean)]] = self.listener.means([tuned])
                said = _logits(tuned, mean)
                before = said[:1].expand_as(said)  # the base knows no labels: all are the same to it
            else:
                said, before = (self.listener.first_logits(one) for one in (tuned, replace(tuned, adapter=None)))
        if not bool(said.isfinite().all()):
            raise IntegrityError(
                "The adapter's logits are not finite.", where=str(loaded.path), remedy="Tune it again."
            )
        if torch.equal(said, before):
            what = "The adapter does not change what the base says."
            raise IntegrityError(what, where=str(loaded.path), remedy="Tune it again, with more steps.")


_NOTHING = Completion("", (), "stop", 0, 0)


def _recording(messages: Messages, number: int) -> Samples:
    part = parts.last(messages, "audio", stored=True)
    if part is None:
        raise InvalidRequest(
            "The prompt has no recording.", where=f"messages of prompt {number}", remedy="Add a part of type `audio`."
        )
    return decode_sound(part.data, part.where).samples


def _wants_label(messages: Messages) -> bool:
    content = messages[-1].get("content") if messages else None
    return any(part.get("goal") == "label" for part in content) if isinstance(content, list) else False


def _words(said: Transcript) -> Completion:
    tokens = tuple(token for segment in said.segments for token in segment.tokens)
    return Completion(said.text, tokens, "stop", 0, len(tokens) + max(1, len(said.segments)))


def _label(labels: Labels) -> Completion:
    return Completion(labels[0][0], (), "stop", 0, 1)


def _ranked(labels: Sequence[str], chances: Sequence[float]) -> Labels:
    return sorted(zip(labels, chances, strict=True), key=lambda told: -told[1])


def _logits(question: Question, mean: Tensor) -> Tensor:
    """Of the labels, `[labels]` in float32."""
    assert question.weights is not None and question.weights.head is not None, "an adapter of this kind has a head"
    return question.weights.head(mean)


def _name(question: Question, asked: Options) -> tuple[object, ...]:
    """What a transcript is remembered by: without the sound, and by the adapter's digest alone."""
    return question.digest, question.adapter.digest if question.adapter else "", asked


def _snug(sound: Samples) -> float:
    seconds = len(sound) / RATE
    return next((window for window in _SNUG_S if seconds <= window), LONGEST_WINDOW_S)


def _size(said: Transcript) -> int:
    return _TRANSCRIPT_BYTES + sum(2 * len(segment.text) + 40 * len(segment.tokens) + 200 for segment in said.segments)


def _other_kind(loaded: Adapter | None, kind: Kind) -> InvalidRequest:
    name = "The base" if loaded is None else f"The adapter {loaded.name!r}"
    does, wanted = ("words", "labels") if kind == "classification" else ("labels", "words")
    return InvalidRequest(
        f"{name} tells {does} of recordings, not {wanted}.",
        where="model",
        remedy=f"Use an adapter that was tuned to tell {wanted}.",
    )
