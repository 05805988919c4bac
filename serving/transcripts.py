"""`/v1/audio/transcriptions` of the engine: what may be asked, and a transcript as `verbose_json` or as events."""

import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from moatelier.errors import InvalidRequest, MoatelierError
from serving.protocol import DONE, envelope
from serving.sse import event

MOST_PROMPT = 2000
"""Characters of a prompt; Whisper reads the last 224 tokens of it."""


def options(
    *,
    language: str | None = None,
    prompt: str = "",
    temperature: float = 0.0,
    seed: int | None = None,
    translate: bool = False,
    timestamps: bool = False,
    words: bool = False,
) -> dict[str, Any]:
    """Fields of `modalities.audio.transcribing.Options`.

    Args:
        language: Its code or name; None lets a multilingual model tell.
        prompt: What was said before, or how names are spelt.
        temperature: Above 0 tokens are drawn.
        seed: Equal ones draw the same.
        translate: To English.
        timestamps: Cut into phrases where the model hears them begin.
        words: Tell when each word begins and ends.

    Raises:
        InvalidRequest: A temperature or prompt out of range.
    """
    if not 0 <= temperature <= 1:
        raise InvalidRequest("The temperature is not within 0 and 1.", where="temperature", remedy="Use 0 to 1.")
    if len(prompt) > MOST_PROMPT:
        what = f"The prompt has {len(prompt)} characters."
        raise InvalidRequest(what, where="prompt", remedy=f"Use at most {MOST_PROMPT}.")
    found: dict[str, Any] = {"language": language or None, "prompt": prompt, "temperature": temperature}
    found |= {"task": "translate" if translate else "transcribe", "timestamps": timestamps}
    return found | ({"words": True} if words else {}) | ({"seed": seed} if seed is not None and temperature else {})


def verbose(transcript: Any, task: str = "transcribe", temperature: float = 0.0) -> dict[str, Any]:
    """A `Transcript` with all that is known of it, as `verbose_json` tells it."""
    segments = [
        {
            "id": number,
            "seek": 0,
            "start": segment.start_s,
            "end": segment.stop_s,
            "text": segment.text,
            "tokens": list(segment.tokens),
            "temperature": temperature,
            "avg_logprob": segment.mean_logprob,
            "compression_ratio": compression(segment.text),
            "no_speech_prob": segment.no_speech,
        }
        for number, segment in enumerate(transcript.segments)
    ]
    body = {
        "task": task,
        "language": transcript.language or "",
        "duration": transcript.seconds,
        "text": transcript.text,
        "segments": segments,
        "usage": _usage(transcript.seconds),
    }
    spoken: Sequence[Any] | None = getattr(transcript, "words", None)
    if spoken is not None:
        body["words"] = [{"word": word.text, "start": word.start_s, "end": word.stop_s} for word in spoken]
    return body


async def events(seconds: float, first: str, said: AsyncGenerator[str, None]) -> AsyncGenerator[bytes, None]:
    """A transcript as server-sent events: what each window adds to it, then the whole.

    Args:
        seconds: Length of the recording.
        first: What the first window added.
        said: What the others add.
    """
    text = first
    try:
        async with aclosing(said):
            if first:
                yield event({"type": "transcript.text.delta", "delta": first})
            async for delta in said:
                text += delta
                if delta:
                    yield event({"type": "transcript.text.delta", "delta": delta})
        yield event({"type": "transcript.text.done", "text": text, "usage": _usage(seconds)})
        yield DONE
    except MoatelierError as error:
        yield event(envelope(error))


def _usage(seconds: float) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(seconds, 3)}


def compression(text: str) -> float:
    """How much of a text zlib saves; far above 2 it repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0
