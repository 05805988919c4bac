"""What a chat completion says, read strictly: an answer that is none is an error, never an empty text.

Whoever answers may be broken or hostile: its numbers must be numbers, its text must be text.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from moatelier.errors import MoatelierError, UpstreamError

FINISHED = ("stop", "length", "content_filter", "tool_calls", "function_call")
SLACK = 1e-3
"""A log probability may be so much above 0, by rounding."""
MOST_TOKENS = 10**9
EMPTY = "The answer is empty."
"""Whoever only scores answers takes such a one for wrong, not for a fault of the service."""


@dataclass(frozen=True)
class Said:
    """One answer.

    Attributes:
        text: Never empty.
        finish_reason: As the upstream gave it.
        likelihood: Mean log probability of its tokens; None when it was not told.
        prompt_tokens: 0 when it was not told.
        completion_tokens: 0 when it was not told.
    """

    text: str
    finish_reason: str
    likelihood: float | None
    prompt_tokens: int
    completion_tokens: int


def whole(answer: Mapping[str, Any]) -> Said:
    """The first choice of a whole completion.

    Raises:
        UpstreamError: It is no completion, or says nothing.
    """
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        reason = choice.get("finish_reason")
        told = _logprobs(choice)
        prompt, completion = _usage(answer.get("usage"))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UpstreamError(
            "The answer is no chat completion.", remedy="Check what answers at this address."
        ) from error
    return Said(_text(text), _reason(reason), _mean(told), prompt, completion)


def _text(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise UpstreamError(EMPTY, remedy="Ask for a text, or allow more tokens.")
    return clean(text)


def clean(text: str) -> str:
    """The text without halves of characters: JSON may hold them, UTF-8 may not."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _reason(told: Any) -> str:
    return told if told in FINISHED else "stop"


def _logprobs(choice: Mapping[str, Any]) -> list[float]:
    return [float(token["logprob"]) for token in ((choice.get("logprobs") or {}).get("content") or [])]


def _mean(told: list[float]) -> float | None:
    """None also when some are no log probabilities: who says 1000 would win every comparison."""
    if not told or not all(isfinite(one) and one <= SLACK for one in told):
        return None
    return min(0.0, sum(told) / len(told))


def _usage(usage: Any) -> tuple[int, int]:
    counts = usage if isinstance(usage, Mapping) else {}
    return _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))


def _count(told: Any) -> int:
    return told if type(told) is int and 0 <= told < MOST_TOKENS else 0


async def streamed(chunks: AsyncIterator[dict[str, Any]], say: Callable[[str], None]) -> Said:
    """The first choice of a streamed completion; `say` hears each piece as it comes.

    Raises:
        UpstreamError: The stream is none, says nothing, or ends with an error.
    """
    pieces: list[str] = []
    told: list[float] = []
    reason: Any = None
    prompt, completion = 0, 0
    async for chunk in chunks:
        if "error" in chunk:
            raise _error(chunk["error"])
        try:
            if chunk.get("usage"):
                prompt, completion = _usage(chunk["usage"])
            for choice in chunk["choices"][:1]:
                piece = (choice.get("delta") or {}).get("content")
                reason = choice.get("finish_reason") or reason
                told += _logprobs(choice)
                if piece:
                    pieces.append(clean(str(piece)))
                    say(pieces[-1])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UpstreamError("The stream holds an event that is no chunk of a chat completion.") from error
    return Said(_text("".join(pieces)), _reason(reason), _mean(told), prompt, completion)


def _error(told: Any) -> MoatelierError:
    words = told if isinstance(told, Mapping) else {"message": str(told)}
    if words.get("code"):
        known = MoatelierError.from_dict({"code": words["code"], "what": words.get("message", "")})
        if type(known) is not MoatelierError:
            return known
    return UpstreamError(f"The upstream failed within its answer: {words.get('message', '')}")
