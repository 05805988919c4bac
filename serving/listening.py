"""Recordings through one Whisper in batches, each row heard with its own adapter; what the encoder made is remembered.

questions that are heard in the same window -> windows of sound -> encoder states -> tokens, or means of the states
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modalities.audio.classifier import mean_states
from modalities.audio.config import LONGEST_WINDOW_S, lora_targets, samples
from modalities.audio.decoding import Options, checked, decode, is_plain
from modalities.audio.greedy import Heard
from modalities.audio.levels import Piece, Samples, cut
from modalities.audio.model import AudioBase, encode, features
from modalities.audio.transcribing import Transcript, Window, batches, transcripts
from serving.audio_adapters import Ear
from serving.lora import LoraWeights
from serving.memory import Memory
from serving.remembered import Remembered
from serving.row_lora import RowLora


@dataclass(frozen=True)
class Question:
    """What is to be told of a recording, and by whom.

    Attributes:
        digest: Of the sound.
        owner: Digest of the adapter, or of the base.
        sound: Samples at 16 kHz.
        ear: How the adapter hears; None is the base.
        weights: The adapter's.
    """

    digest: str
    owner: str
    sound: Samples = field(compare=False, repr=False)
    ear: Ear | None = field(default=None, compare=False, repr=False)
    weights: LoraWeights | None = field(default=None, compare=False, repr=False)

    @property
    def window_s(self) -> float:
        """Seconds that are heard at once."""
        return self.ear.window_s if self.ear else LONGEST_WINDOW_S

    @property
    def row(self) -> tuple[str, LoraWeights] | None:
        """The adapter as a batch has it."""
        return (self.owner, self.weights) if self.weights is not None else None


class Listener:
    """Runs the model.

    Args:
        base: Gets what adapters are added by.
        memory: Holds the bytes of encoder states.
    """

    def __init__(self, base: AudioBase, memory: Memory) -> None:
        self._base = base
        self._views = {LONGEST_WINDOW_S: base}
        self.lora = RowLora(base.model, lora_targets(base.config))
        self.states: Remembered[Tensor] = Remembered("states", memory)
        self.encoded = 0
        """Windows that the encoder has run on so far."""

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
        return (window, told) if is_plain(options) else (window, told, question.owner)

    def transcribe(self, questions: Sequence[Question], asked: Options) -> list[Transcript]:
        """What is said, for questions of one company."""
        base = self.windowed(questions[0].window_s)
        options = checked(asked, base)

        def heard(windows: Sequence[Window]) -> list[tuple[Heard, str]]:
            own = [questions[window.recording] for window in windows]
            states = self._encode(base, windows, own)
            told = [language for question in own if (language := self._language(question, options))]
            with self.lora.acting([question.row for question in own]):
                return decode(base, states, options, told or None, self.lora.keep)

        return transcripts(base, [question.sound for question in questions], options, heard)

    def means(self, questions: Sequence[Question]) -> Iterator[tuple[int, float, Tensor]]:
        """The mean encoder state of each window of each recording, for questions that are heard in one window.

        A silent recording is heard as it is: that nothing is said may be a class.

        Yields:
            The question's place, the share of its sound that the window holds, and the mean `[width]` in float32.
        """
        base = self.windowed(questions[0].window_s)
        most = samples(base.window_s)
        windows = []
        for number, question in enumerate(questions):
            sound = question.sound
            pieces = cut(sound, base.window_s) or [Piece(0, min(len(sound), most))]
            windows += [Window(number, piece, sound[piece.start : piece.stop]) for piece in pieces]
        lengths = [max(1, len(window.sound)) for window in windows]
        totals = [0] * len(questions)
        for window, length in zip(windows, lengths, strict=True):
            totals[window.recording] += length
        for batch in batches(windows, base.window_s):
            states = self._encode(base, batch, [questions[window.recording] for window in batch])
            held = torch.tensor([max(1, len(window.sound)) for window in batch])
            for window, length, mean in zip(batch, held.tolist(), mean_states(states, held), strict=True):
                yield window.recording, length / totals[window.recording], mean

    def canary(self, question: Question) -> Tensor:
        """What the first token after a recording would be: logits `[vocabulary]`, computed alone."""
        base = self.windowed(question.window_s)
        with torch.inference_mode(), self.lora.acting([question.row]):
            states = encode(features([question.sound], base), base)
            start = torch.tensor([[base.tokenizer.sot]], device=base.device)
            logits: Tensor = base.model.decoder(start, states)[0, -1]
        return logits

    def _language(self, question: Question, options: Options) -> str | None:
        """Asked for, or the one that an adapter was taught in; None has it told."""
        asked = checked(options, self._base).language
        return asked or (question.ear.language if question.ear else None)

    @torch.inference_mode()
    def _encode(self, base: AudioBase, windows: Sequence[Window], own: Sequence[Question]) -> Tensor:
        """The encoder's states, `[windows, positions, width]`; each is computed once."""
        keys = [self._key(base, window, question) for window, question in zip(windows, own, strict=True)]
        found = {key: self.states.get(key) for key in dict.fromkeys(keys)}
        missing = [key for key, states in found.items() if states is None]
        if missing:
            places = [keys.index(key) for key in missing]
            with self.lora.acting([own[place].row for place in places]):
                states = encode(features([windows[place].sound for place in places], base), base)
            self.encoded += len(missing)
            if len(missing) == len(keys):
                self._remember(missing, states)
                return states
            found |= zip(missing, states, strict=True)
            self._remember(missing, states)
        return torch.stack([one for key in keys if (one := found[key]) is not None])

    def _remember(self, keys: Sequence[object], states: Tensor) -> None:
        for key, one in zip(keys, states, strict=True):
            self.states.put(key, one.clone(), one.nbytes)  # a view would keep the whole batch

    def _key(self, base: AudioBase, window: Window, question: Question) -> tuple[object, ...]:
        encodes = question.ear is not None and question.ear.encodes
        owner = question.owner if encodes else self._base.digest
        return question.digest, window.piece.start, window.piece.stop, base.window_s, owner
