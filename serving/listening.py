"""Recordings through one Whisper in batches, each row heard with its own adapter; what the encoder made is remembered.

questions that are heard in the same window -> windows of sound -> encoder states -> tokens, or means of the states
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modalities.audio.classifier import mean_states
from modalities.audio.config import LONGEST_WINDOW_S, lora_targets, samples
from modalities.audio.decoding import Options, checked, decode, is_plain
from modalities.audio.greedy import Heard
from modalities.audio.levels import Piece, Samples, cut
from modalities.audio.model import AudioBase, encode, features
from modalities.audio.transcribing import Transcript, Window, batches, transcripts, with_words
from serving.adapters import Loaded
from serving.audio_weights import AudioWeights
from serving.hooked import Hooked
from serving.lora import StackedPass
from serving.remembered import Remembered
from serving.stacks import Stacks

Adapter = Loaded[AudioWeights]


@dataclass(frozen=True)
class Question:
    """What is to be told of a recording, and by whom.

    Attributes:
        digest: Of the sound.
        adapter: Its weights are held; None is the base.
        window_s: Seconds that are heard at once.
        sound: Samples at 16 kHz.
    """

    digest: str
    adapter: Adapter | None
    window_s: float
    sound: Samples = field(compare=False, repr=False)

    @property
    def weights(self) -> AudioWeights | None:
        """The adapter's."""
        return self.adapter.weights if self.adapter else None


class Listener:
    """Runs the model.

    Args:
        base: Gets hooks, by which adapters act.
        states: What the encoder made of windows, `[positions, width]`.
    """

    def __init__(self, base: AudioBase, states: Remembered[Tensor]) -> None:
        self._base, self._states = base, states
        self._views = {LONGEST_WINDOW_S: base}
        self._hooked = Hooked(base.model, lora_targets(base.config))
        self._stacks = Stacks()
        self.forget = self._stacks.forget
        self.encoded = 0
        """Windows that the encoder has run on so far: what remembering saves."""

    def windowed(self, window_s: float) -> AudioBase:
        """The base with a window.

        Raises:
            InvalidRequest: It cannot hear such a one.
        """
        if window_s not in self._views:
            self._views[window_s] = self._base.with_window(window_s)
        return self._views[window_s]

    def company(self, question: Question, options: Options) -> tuple[object, ...]:
        """Questions for which this is equal can be answered in one batch."""
        window, told = question.window_s, self._language(question, options) is not None
        # Whisper's own search makes several rows of one, and knows nothing of whose they are.
        return (window, told) if is_plain(options) else (window, told, question.adapter)

    def transcribe(self, questions: Sequence[Question], asked: Options) -> list[Transcript]:
        """What is said, for questions of one company."""
        if not questions:
            return []
        base = self.windowed(questions[0].window_s)
        options = checked(asked, base)

        def heard(windows: Sequence[Window]) -> list[tuple[Heard, str]]:
            own = [questions[window.recording] for window in windows]
            states = self._encode(base, windows, own)
            told = [language for question in own if (language := self._language(question, options))]
            adapters = self._over(own)
            with self._hooked.acting(adapters):
                return decode(base, states, options, told or None, adapters.keep if adapters else lambda _: None)

        found = transcripts(base, [question.sound for question in questions], options, heard)
        if not options.words:
            return found
        return [self._with_words(base, said, question) for said, question in zip(found, questions, strict=True)]

    def _with_words(self, base: AudioBase, said: Transcript, question: Question) -> Transcript:
        with self._hooked.acting(self._over([question])):
            return with_words(base, said, question.sound)

    def means(self, questions: Sequence[Question]) -> list[list[tuple[float, Tensor]]]:
        """The mean encoder state of each window of each recording.

        A silent recording is heard as it is: that nothing is said may be a class.

        Returns:
            For each question its windows: the share of its sound, and the mean `[width]` in float32.
        """
        found: list[list[tuple[float, Tensor]]] = [[] for _ in questions]
        alike: dict[float, list[int]] = defaultdict(list)
        for place, question in enumerate(questions):
            alike[question.window_s].append(place)
        for window_s, places in alike.items():
            base = self.windowed(window_s)
            windows = [window for place in places for window in _windows(place, questions[place].sound, window_s)]
            for batch in batches(windows, window_s):
                states = self._encode(base, batch, [questions[window.recording] for window in batch])
                held = torch.tensor([len(window.sound) for window in batch])
                for window, mean in zip(batch, mean_states(states, held), strict=True):
                    found[window.recording].append((max(1.0, len(window.sound)), mean))
        totals = [sum(length for length, _ in parts) for parts in found]
        return [[(length / total, mean) for length, mean in parts] for parts, total in zip(found, totals, strict=True)]

    @torch.inference_mode()
    def first_logits(self, question: Question) -> Tensor:
        """What the first token after a recording that fits the window would be, `[vocabulary]`; computed alone."""
        base = self.windowed(question.window_s)
        with self._hooked.acting(self._over([question])):
            states = encode(features([question.sound], base), base)
            start = torch.tensor([[base.tokenizer.sot]], device=base.device)
            logits: Tensor = base.model.decoder(start, states)[0, -1]
        return logits

    def _over(self, questions: Sequence[Question]) -> StackedPass | None:
        return self._stacks.over([question.adapter for question in questions], self._base.device)

    def _language(self, question: Question, options: Options) -> str | None:
        """Asked for, or the one that an adapter was taught in; None has it told."""
        asked = checked(options, self._base).language
        return asked or (question.weights.language if question.weights else None)

    @torch.inference_mode()
    def _encode(self, base: AudioBase, windows: Sequence[Window], own: Sequence[Question]) -> Tensor:
        """The encoder's states, `[windows, positions, width]`; each is computed once."""
        keys = [self._key(window, question) for window, question in zip(windows, own, strict=True)]
        found = {key: self._states.get(key) for key in dict.fromkeys(keys)}
        missing = [key for key, states in found.items() if states is None]
        if missing:
            places = [keys.index(key) for key in missing]
            with self._hooked.acting(self._over([own[place] for place in places])):
                states = encode(features([windows[place].sound for place in places], base), base)
            self.encoded += len(missing)
            for key, one in zip(missing, states, strict=True):
                self._states.put(key, one.clone(), one.nbytes)  # a view would keep the whole batch
            if len(missing) == len(keys):
                return states
            found |= zip(missing, states, strict=True)
        return torch.stack([one for key in keys if (one := found[key]) is not None])

    def _key(self, window: Window, question: Question) -> tuple[object, ...]:
        encodes = question.weights is not None and question.weights.encodes
        owner = question.adapter.digest if question.adapter and encodes else self._base.digest
        return question.digest, window.piece.start, window.piece.stop, question.window_s, owner


def _windows(number: int, sound: Samples, window_s: float) -> list[Window]:
    pieces = cut(sound, window_s) or [Piece(0, min(len(sound), samples(window_s)))]
    return [Window(number, piece, sound[piece.start : piece.stop]) for piece in pieces]
