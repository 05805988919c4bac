"""Recordings of any length to text: silence is left out, long ones are cut into windows, and the texts are joined."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

import torch

from modalities.audio.config import RATE, positions, samples
from modalities.audio.decoding import Options, checked, decode, detect_language
from modalities.audio.greedy import Heard
from modalities.audio.levels import Piece, Samples, cut
from modalities.audio.model import AudioBase, encode, features
from modalities.audio.words import Word, timed

__all__ = ["Decode", "Joining", "Options", "Segment", "Transcript", "Window", "batches", "detect_language", "join"]
__all__ += ["transcribe", "transcripts"]

MOST_POSITIONS = 24_000
MOST_WINDOWS = 64
"""Of windows that are encoded and decoded together: encoder states, and windows."""
NO_SPEECH = 0.6
UNLIKELY = -1.0
"""A window is taken for wordless where its no-speech probability is above the one and its mean log probability below
the other, as openai-whisper's own `transcribe` does."""
_WORDS_A_SECOND = 5
_STRAY_WORDS = 2


@dataclass(frozen=True)
class Segment:
    """A part of a transcript. Times are seconds from the recording's start.

    Attributes:
        start_s: Where it begins.
        stop_s: Where it ends.
        text: What is said.
        tokens: As they were decoded; where windows overlap, `text` may have fewer words.
        mean_logprob: Natural log probability a token of the window it stands in.
        no_speech: Probability that nobody speaks in that window.
    """

    start_s: float
    stop_s: float
    text: str
    tokens: tuple[int, ...]
    mean_logprob: float
    no_speech: float


@dataclass(frozen=True)
class Transcript:
    """What a recording says.

    Attributes:
        text: The whole of it; empty for silence.
        segments: Its parts.
        language: The code of what was heard or asked for; None where nothing was heard and nothing asked for.
        seconds: Length of the recording.
        words: With their times; None where they were not asked for.
    """

    text: str
    segments: tuple[Segment, ...]
    language: str | None
    seconds: float
    words: tuple[Word, ...] | None = None

    @property
    def mean_logprob(self) -> float:
        """Over all segments by their tokens; 0 for an empty transcript."""
        counts = [len(segment.tokens) + 1 for segment in self.segments]
        total = sum(n * segment.mean_logprob for n, segment in zip(counts, self.segments, strict=True))
        return total / sum(counts) if counts else 0.0


@dataclass(frozen=True)
class Window:
    """What is heard at once.

    Attributes:
        recording: Whose it is, by its place among all.
        piece: Where in the recording it stands.
        sound: Its samples.
    """

    recording: int
    piece: Piece
    sound: Samples


Decode = Callable[[Sequence[Window]], Sequence[tuple[Heard, str]]]
"""Windows -> what was heard in each, and in which language."""


def transcribe(base: AudioBase, recordings: Sequence[Samples], options: Options | None = None) -> list[Transcript]:
    """What each recording says.

    Args:
        base: The model, whatever adapter is active in it, and the window.
        recordings: Samples at 16 kHz in -1..1, of any length.
        options: How to decode.

    Raises:
        InvalidRequest: The options do not fit the model or each other.
    """
    asked = checked(options or Options(), base)

    def heard(windows: Sequence[Window]) -> list[tuple[Heard, str]]:
        with torch.inference_mode():
            states = encode(features([window.sound for window in windows], base), base)
            languages = [asked.language] * len(windows) if asked.language else None
            return decode(base, states, asked, languages)

    found = transcripts(base, recordings, asked, heard)
    if not asked.words:
        return found
    return [with_words(base, said, sound) for said, sound in zip(found, recordings, strict=True)]


def transcripts(base: AudioBase, recordings: Sequence[Samples], options: Options, heard: Decode) -> list[Transcript]:
    """Cut recordings into windows, have these heard in batches, and join what they say.

    Args:
        base: Gives window and tokenizer.
        recordings: Samples at 16 kHz in -1..1, of any length.
        options: As `checked` gives them.
        heard: Hears a batch of windows.
    """
    windows = [
        Window(number, piece, sound[piece.start : piece.stop])
        for number, sound in enumerate(recordings)
        for piece in cut(sound, base.window_s)
    ]
    found: dict[int, list[tuple[Piece, list[Segment], str]]] = defaultdict(list)
    for batch in batches(windows, base.window_s):
        for window, (said, language) in zip(batch, heard(batch), strict=True):
            found[window.recording].append((window.piece, _segments(base, window, said, options), language))
    return [_transcript(found[number], len(sound) / RATE, options.language) for number, sound in enumerate(recordings)]


def batches(windows: Sequence[Window], window_s: float) -> Iterator[Sequence[Window]]:
    """Windows that are heard together."""
    size = max(1, min(MOST_WINDOWS, MOST_POSITIONS // positions(window_s)))
    for start in range(0, len(windows), size):
        yield windows[start : start + size]


def _segments(base: AudioBase, window: Window, heard: Heard, options: Options) -> list[Segment]:
    """The window's text, by the model's own timestamps where it was asked for them."""
    if heard.no_speech > NO_SPEECH and heard.mean_logprob < UNLIKELY:
        return []
    begin, length = window.piece.start / RATE, len(window.sound) / RATE
    parts = _timed(base.tokenizer, heard.tokens, length) if options.timestamps else [(0.0, length, heard.tokens)]
    made = [
        Segment(
            round(begin + start, 3),
            round(begin + stop, 3),
            base.tokenizer.decode(list(tokens)).strip(),
            tuple(token for token in tokens if token < base.tokenizer.eot),
            heard.mean_logprob,
            heard.no_speech,
        )
        for start, stop, tokens in parts
    ]
    return [segment for segment in made if segment.text]


def _timed(tokenizer: Any, tokens: Sequence[int], length: float) -> Iterator[tuple[float, float, tuple[int, ...]]]:
    """Cut tokens at timestamps: each part with its start and stop in seconds, within the window."""
    marks = [at for at, token in enumerate(tokens) if token >= tokenizer.timestamp_begin]
    edges = [-1, *marks, len(tokens)]
    times = [0.0, *((tokens[at] - tokenizer.timestamp_begin) * 0.02 for at in marks), length]
    for (left, right), (start, stop) in zip(pairwise(edges), pairwise(times), strict=True):
        if right > left + 1:
            yield min(start, length), min(max(start, stop), length), tuple(tokens[left + 1 : right])


def _transcript(windows: Sequence[tuple[Piece, list[Segment], str]], seconds: float, asked: str | None) -> Transcript:
    joining = Joining()
    for piece, found, _ in windows:
        joining.add(piece, found)
    spoken = [language for _, found, language in windows if found]
    heard = max(dict.fromkeys(spoken), key=spoken.count, default=asked)
    return Transcript(joining.text, joining.segments, heard, seconds)


class Joining:
    """What the windows of one recording say, joined as they are heard, from the first to the last."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._before: Piece | None = None

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Those with words."""
        return tuple(segment for segment in self._segments if segment.text)

    @property
    def text(self) -> str:
        """What has been said so far; the next window may cut off its last words."""
        return " ".join(segment.text for segment in self.segments)

    def add(self, piece: Piece, found: Sequence[Segment]) -> None:
        """Go on with the next window and what it says."""
        found = list(found)
        if found and self._repeats(piece):
            assert self._before is not None
            words = max(1, round((self._before.stop - piece.start) / RATE * _WORDS_A_SECOND))
            left, right = join(self._segments[-1].text, found[0].text, words)
            self._segments[-1] = replace(self._segments[-1], text=left)
            found[0] = replace(found[0], text=right)
        self._segments += found
        self._before = piece if found else None

    def settled(self, following: Piece | None) -> str:
        """The beginning of the text that stays as it is, whatever the next window says; None: there is none."""
        if following is None or not self._repeats(following):
            return self.text
        kept = self.text.rsplit(maxsplit=_STRAY_WORDS)
        return kept[0] if len(kept) > _STRAY_WORDS else ""

    def _repeats(self, piece: Piece) -> bool:
        """Whether a window begins with the sound of words that were heard just before."""
        return self._before is not None and piece.start < self._before.stop


def join(left: str, right: str, words: int) -> tuple[str, str]:
    """Two texts whose sound overlaps, without what both say, the second half of a word that was cut in two with it.

    Args:
        left: The earlier text.
        right: The later one.
        words: How many words the overlap may hold.

    Returns:
        Both; the words in common stay in the earlier one. Where nothing is in common, both are as they were.
    """
    before, after = left.split(), right.split()
    tail, head = before[-words:], after[:words]
    same = SequenceMatcher(None, [*map(_plain, tail)], [*map(_plain, head)], autojunk=False).find_longest_match()
    behind, ahead = len(tail) - same.a - same.size, same.b
    if not same.size or behind > _STRAY_WORDS or ahead > _STRAY_WORDS:
        return left, right
    # What stands behind the common words on the left was cut off at its end, ahead of them on the right at its start.
    return left.rsplit(maxsplit=behind)[0], " ".join(after[same.b + same.size :])


def with_words(base: AudioBase, said: Transcript, sound: Samples) -> Transcript:
    """A transcript with the times of its words, by the base that made it and the recording that it is of."""
    words: list[Word] = []
    for segment in said.segments:
        start, stop = (round(time * RATE) for time in (segment.start_s, segment.stop_s))
        clip = sound[start : min(stop, start + samples(base.window_s))]
        words += timed(base, clip, segment.text, segment.start_s)
    return replace(said, words=tuple(words))


def _plain(word: str) -> str:
    return re.sub(r"\W", "", word).casefold() or word
