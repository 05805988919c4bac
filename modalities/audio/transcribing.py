"""Recordings of any length to text: silence is left out, long ones are cut into windows, and the texts are joined.

Plain greedy decoding goes through `modalities.audio.greedy`, all windows of all recordings in batches; beams,
temperature, timestamps and unknown languages go through openai-whisper's own decoding.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from whisper.decoding import DecodingOptions, DecodingResult, DecodingTask
from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

from moatelier.errors import InvalidRequest
from modalities.audio.config import RATE, token_limit
from modalities.audio.greedy import Heard, greedy, prompt_of
from modalities.audio.levels import Piece, Samples, cut
from modalities.audio.model import AudioBase, encode, features

BATCH = 16
"""Windows that are encoded and decoded together."""
NO_SPEECH = 0.6
UNLIKELY = -1.0
"""A window is taken for wordless where its no-speech probability is above the one and its mean log probability below
the other, as openai-whisper's own `transcribe` does."""
_WORDS_A_SECOND = 5
_STRAY_WORDS = 2


@dataclass(frozen=True)
class Options:
    """How to decode.

    Attributes:
        language: Its code or English name; None lets a multilingual model tell.
        task: `transcribe`, or `translate` to English.
        beam: Width of a beam search; None is greedy.
        temperature: Above 0 tokens are drawn.
        timestamps: Whether the model marks when each phrase begins and ends.
        prompt: What was said before, or how names are spelt.
        max_tokens: Of one window's text; default and most: `modalities.audio.config.token_limit`.
    """

    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    beam: int | None = None
    temperature: float = 0.0
    timestamps: bool = False
    prompt: str = ""
    max_tokens: int | None = None


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
    """

    text: str
    segments: tuple[Segment, ...]
    language: str | None
    seconds: float

    @property
    def mean_logprob(self) -> float:
        """Over all segments by their tokens; 0 for an empty transcript."""
        counts = [len(segment.tokens) + 1 for segment in self.segments]
        total = sum(n * segment.mean_logprob for n, segment in zip(counts, self.segments, strict=True))
        return total / sum(counts) if counts else 0.0


@dataclass(frozen=True)
class _Window:
    recording: int
    piece: Piece
    sound: Samples


def transcribe(base: AudioBase, recordings: Sequence[Samples], options: Options | None = None) -> list[Transcript]:
    """What each recording says.

    Args:
        base: The model, whatever adapter is active in it, and the window.
        recordings: Samples at 16 kHz in -1..1, of any length.
        options: How to decode.

    Raises:
        InvalidRequest: The options do not fit the model or each other.
    """
    options = _checked(options or Options(), base)
    windows = [
        _Window(number, piece, sound[piece.start : piece.stop])
        for number, sound in enumerate(recordings)
        for piece in cut(sound, base.window_s)
    ]
    found: dict[int, list[tuple[Piece, list[Segment], str]]] = defaultdict(list)
    for start in range(0, len(windows), BATCH):
        batch = windows[start : start + BATCH]
        for window, (heard, language) in zip(batch, _decode(base, batch, options), strict=True):
            found[window.recording].append((window.piece, _segments(base, window, heard, options), language))
    return [_transcript(found[number], len(sound) / RATE, options.language) for number, sound in enumerate(recordings)]


def detect_language(base: AudioBase, clips: Sequence[Samples]) -> list[tuple[str, float]]:
    """The likeliest language of each clip that fits into the window, with its probability.

    Raises:
        InvalidRequest: The model knows English alone, or a clip is too long.
    """
    if not base.config.multilingual:
        raise InvalidRequest("The model knows English alone.", where=base.entry_id, remedy="Use a multilingual model.")
    with torch.inference_mode():
        return _languages(base, encode(features(clips, base), base))


# ---------------------------------------------------------------- decoding


def _checked(options: Options, base: AudioBase) -> Options:
    name = (options.language or "").lower()
    code = TO_LANGUAGE_CODE.get(name, name)
    if code and code not in LANGUAGES:
        raise InvalidRequest(
            f"Whisper knows no language {options.language!r}.", where="language", remedy="Give a code such as `en`."
        )
    if not base.config.multilingual and (code not in ("", "en") or options.task == "translate"):
        raise InvalidRequest(
            f"The model {base.entry_id!r} knows English alone.", where="language", remedy="Use a multilingual model."
        )
    if options.beam is not None and (options.temperature or not 1 <= options.beam <= 32):
        raise InvalidRequest(
            "A beam has a width of 1 to 32 and no temperature.", where="beam", remedy="Give one of the two."
        )
    limit = token_limit(base.window_s, base.config.n_text_ctx)
    tokens = limit if options.max_tokens is None else min(limit, options.max_tokens)
    return replace(options, language=code or (None if base.config.multilingual else "en"), max_tokens=tokens)


@torch.inference_mode()
def _decode(base: AudioBase, batch: Sequence[_Window], options: Options) -> list[tuple[Heard, str]]:
    states = encode(features([window.sound for window in batch], base), base)
    if options.language:
        languages = [options.language] * len(batch)
    else:
        languages = [code for code, _ in _languages(base, states)]
    if options.beam or options.temperature or options.timestamps:
        heard: list[Heard] = [Heard((), 0.0, 0.0, True)] * len(batch)
        for language in dict.fromkeys(languages):
            rows = [row for row, other in enumerate(languages) if other == language]
            for row, result in zip(rows, _by_whisper(base, states[rows], language, options), strict=True):
                heard[row] = result
    else:
        prompts = [prompt_of(base.tokenizer, code, options.task, options.prompt) for code in languages]
        heard = greedy(base.model, base.tokenizer, states, prompts, options.max_tokens)
    return list(zip(heard, languages, strict=True))


class _Given(DecodingTask):  # type: ignore[misc]  # openai-whisper has no types
    """openai-whisper's decoding, given the encoder's states in any precision."""

    def _get_audio_features(self, states: Tensor) -> Tensor:
        return states


def _by_whisper(base: AudioBase, states: Tensor, language: str, options: Options) -> list[Heard]:
    task = _Given(
        base.model,
        DecodingOptions(
            task=options.task,
            language=language,
            temperature=options.temperature,
            beam_size=options.beam,
            sample_len=options.max_tokens,
            prompt=options.prompt or None,
            without_timestamps=not options.timestamps,
            # Whisper takes the window for 30 s and counts its first second in positions of that length.
            max_initial_timestamp=1500 / base.model.dims.n_audio_ctx,
            fp16=False,
        ),
    )
    results: list[DecodingResult] = task.run(states)
    return [
        Heard(tuple(result.tokens), float(result.avg_logprob), float(result.no_speech_prob), ended=True)
        for result in results
    ]


def _languages(base: AudioBase, states: Tensor) -> list[tuple[str, float]]:
    _, probabilities = base.model.detect_language(states, base.tokenizer)
    return [max(found.items(), key=lambda item: item[1]) for found in probabilities]


# ---------------------------------------------------------------- texts


def _segments(base: AudioBase, window: _Window, heard: Heard, options: Options) -> list[Segment]:
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
    segments: list[Segment] = []
    for number, (piece, found, _) in enumerate(windows):
        if piece.overlaps and segments and found:
            overlap_s = (windows[number - 1][0].stop - piece.start) / RATE
            segments[-1], found = _without_repeat(segments[-1], found, overlap_s)
        segments += found
    spoken = [language for _, found, language in windows if found]
    heard = max(dict.fromkeys(spoken), key=spoken.count, default=asked)
    kept = tuple(segment for segment in segments if segment.text)
    return Transcript(" ".join(segment.text for segment in kept), kept, heard, seconds)


def _without_repeat(last: Segment, found: list[Segment], overlap_s: float) -> tuple[Segment, list[Segment]]:
    first = found[0]
    left, right = join(last.text, first.text, max(1, round(overlap_s * _WORDS_A_SECOND)))
    return replace(last, text=left), [replace(first, text=right), *found[1:]]


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
    return " ".join(before[: len(before) - behind]), " ".join(after[same.b + same.size :])


def _plain(word: str) -> str:
    return re.sub(r"\W", "", word).casefold() or word
