"""How windows of sound become tokens: greedily in one batch, or by openai-whisper's own search; and in which language.

Plain greedy decoding goes through `modalities.audio.greedy`; beams, temperature and timestamps go through
openai-whisper's own decoding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from whisper.decoding import DecodingOptions, DecodingResult, DecodingTask
from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

from moatelier.errors import InvalidRequest
from modalities.audio.config import token_limit
from modalities.audio.greedy import Heard, greedy, prompt_of
from modalities.audio.levels import Samples
from modalities.audio.model import AudioBase, encode, features


@dataclass(frozen=True)
class Options:
    """How to decode.

    Attributes:
        language: Its code or English name; None lets a multilingual model tell.
        task: `transcribe`, or `translate` to English.
        beam: Width of a beam search; None is greedy.
        temperature: Above 0 tokens are drawn.
        seed: Equal seeds draw the same tokens for the same window, whatever is decoded beside it; then one at a time.
        timestamps: Whether the model marks when each phrase begins and ends.
        prompt: What was said before, or how names are spelt.
        max_tokens: Of one window's text; default and most: `modalities.audio.config.token_limit`.
        words: Whether the times of words are wanted too, see `modalities.audio.words`.
    """

    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    beam: int | None = None
    temperature: float = 0.0
    seed: int | None = None
    timestamps: bool = False
    prompt: str = ""
    max_tokens: int | None = None
    words: bool = False


def checked(options: Options, base: AudioBase) -> Options:
    """The options with the language's code and the limit of tokens filled in.

    Raises:
        InvalidRequest: They do not fit the model or each other.
    """
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
def decode(
    base: AudioBase,
    states: Tensor,
    options: Options,
    languages: Sequence[str] | None,
    kept: Callable[[Tensor], None] = lambda _: None,
) -> list[tuple[Heard, str]]:
    """What is said in each window.

    Args:
        base: The model with its window.
        states: The encoder's, `[windows, positions, width]`.
        options: As `checked` gives them.
        languages: The code of each window's language; None has them told.
        kept: See `modalities.audio.greedy`; only greedy decoding tells.

    Returns:
        What was heard in each window, and the code of its language.
    """
    if languages is None:
        languages = [code for code, _ in _languages(base, states)]
    if is_plain(options):
        prompts = [prompt_of(base.tokenizer, code, options.task, options.prompt) for code in languages]
        found = greedy(base.model, base.tokenizer, states, prompts, options.max_tokens, kept)
        return list(zip(found, languages, strict=True))
    heard: list[Heard] = [Heard((), 0.0, 0.0, True)] * len(states)
    for language in dict.fromkeys(languages):
        rows = [row for row, other in enumerate(languages) if other == language]
        for row, result in zip(rows, _by_whisper(base, states[rows], language, options), strict=True):
            heard[row] = result
    return list(zip(heard, languages, strict=True))


def is_plain(options: Options) -> bool:
    """Whether they ask for plain greedy decoding, in which windows are independent rows of one batch."""
    return not (options.beam or options.temperature or options.timestamps)


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
    # With beams it takes one at a time: all beams of a window share its keys and values.
    parts = torch.split(states, 1) if options.beam or options.seed is not None else [states]
    results: list[DecodingResult] = []
    for part in parts:
        with torch.random.fork_rng([part.device] if part.is_cuda else [], enabled=options.seed is not None):
            if options.seed is not None:
                torch.manual_seed(options.seed % 2**63)
            results += task.run(part)
    return [
        Heard(tuple(result.tokens), float(result.avg_logprob), float(result.no_speech_prob), ended=True)
        for result in results
    ]


def _languages(base: AudioBase, states: Tensor) -> list[tuple[str, float]]:
    _, probabilities = base.model.detect_language(states, base.tokenizer)
    return [max(found.items(), key=lambda item: item[1]) for found in probabilities]


def detect_language(base: AudioBase, clips: Sequence[Samples]) -> list[tuple[str, float]]:
    """The likeliest language of each clip that fits into the window, with its probability.

    Raises:
        InvalidRequest: The model knows English alone, or a clip is too long.
    """
    if not base.config.multilingual:
        raise InvalidRequest("The model knows English alone.", where=base.entry_id, remedy="Use a multilingual model.")
    with torch.inference_mode():
        return _languages(base, encode(features(clips, base), base))
