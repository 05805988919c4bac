"""The OpenAI dialect of the engine: what a chat request may say, and how answers and errors look on the wire."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from moatelier.errors import InvalidRequest, MoatelierError
from moatelier.ids import new_id
from serving.sampling import Sampling

DONE = b"data: [DONE]\n\n"
DEFAULT_MAX_TOKENS = 1024
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_NEUTRAL: Mapping[str, Sequence[Any]] = {
    "response_format": [{"type": "text"}],
    "tool_choice": ["none", "auto"],
    "function_call": ["none", "auto"],
    "modalities": [["text"]],
}


class Message(BaseModel):
    """A turn; its content is text or parts that are all text."""

    role: str
    content: str | list[dict[str, Any]] | None = None

    def plain(self, place: str) -> dict[str, str]:
        """The turn as the template takes it.

        Raises:
            InvalidRequest: A role or a part that a text model does not know.
        """
        if self.role not in _ROLES:
            roles = ", ".join(_ROLES)
            raise InvalidRequest(f"The role {self.role!r} is not known.", where=place, remedy=f"Use one of {roles}.")
        parts = [{"type": "text", "text": self.content}] if isinstance(self.content, str) else self.content or []
        for part in parts:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                what = f"A text model cannot take a part of type {part.get('type')!r}."
                raise InvalidRequest(what, where=place, remedy="Send text only.")
        return {"role": _ROLES[self.role], "content": "".join(part["text"] for part in parts)}


class StreamOptions(BaseModel):
    """How a stream ends."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of a chat completion. Fields that would change the answer and cannot be honoured are refused.

    An absent temperature means greedy, since that is what a gate certifies; the OpenAI service would take 1.
    """

    model_config = ConfigDict(extra="ignore")

    model: str
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = Field(default=1, ge=1, le=16)
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None

    def check(self) -> None:
        """Refuse what this engine cannot do, rather than answer as if it had not been asked.

        Raises:
            InvalidRequest: `where` names the field.
        """
        names = ("logprobs", "top_logprobs", "logit_bias", "frequency_penalty", "presence_penalty", "response_format")
        for name in (*names, "tools", "tool_choice", "functions", "function_call", "modalities", "audio"):
            value = getattr(self, name)
            if value and value not in _NEUTRAL.get(name, ()):
                raise InvalidRequest(f"{name} is not supported by this engine.", where=name, remedy="Leave it out.")

    def turns(self) -> list[dict[str, str]]:
        """The conversation as the engine takes it."""
        return [message.plain(f"messages[{n}]") for n, message in enumerate(self.messages)]

    def sampling(self) -> Sampling:
        """How tokens are to be chosen."""
        limits = [limit for limit in (self.max_completion_tokens, self.max_tokens) if limit is not None]
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_tokens=limits[0] if limits else DEFAULT_MAX_TOKENS,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=stop,
        )


@dataclass(frozen=True)
class Wire:
    """One answer's frame: the fields that all of its chunks, or its one body, have in common."""

    model: str
    fingerprint: str
    include_usage: bool = False
    id: str = field(default_factory=lambda: new_id("chatcmpl"))
    created: int = field(default_factory=lambda: int(time.time()))

    def chunk(self, delta: dict[str, str], index: int = 0, finish_reason: str | None = None) -> bytes:
        """A server-sent event with one choice."""
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        body = self._frame("chat.completion.chunk") | {"choices": [choice]}
        return sse(body | {"usage": None} if self.include_usage else body)

    def usage_chunk(self, prompt: int, completion: int) -> bytes:
        """The last chunk of a stream that asked for it."""
        return sse(self._frame("chat.completion.chunk") | {"choices": [], "usage": usage(prompt, completion)})

    def body(self, choices: Sequence[tuple[str, str | None]], prompt: int, completion: int) -> dict[str, Any]:
        """A whole answer: (text, finish reason) per choice, and the tokens it took."""
        return self._frame("chat.completion") | {
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": reason,
                }
                for index, (text, reason) in enumerate(choices)
            ],
            "usage": usage(prompt, completion),
        }

    def _frame(self, kind: Literal["chat.completion", "chat.completion.chunk"]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Token counts as the dialect names them."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def sse(body: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def envelope(error: MoatelierError) -> dict[str, Any]:
    """An error as OpenAI clients read it; `param` is where it was wrong."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    message = f"{error.what} {error.remedy}".strip()
    return {"error": {"message": message, "type": kind, "param": error.where or None, "code": error.code}}
