"""The OpenAI dialect of the engine: what a chat request may say, and how answers and errors look on the wire."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from moatelier.errors import InvalidRequest, MoatelierError
from moatelier.ids import new_id
from serving import parts
from serving.sampling import MAX_LOGPROBS, Sampling, TokenLogprob
from serving.schemas import ANY_OBJECT, schema_text
from serving.sse import event

DONE = b"data: [DONE]\n\n"
DEFAULT_MAX_TOKENS = 1024
MAX_CHOICES = 16
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_REFUSED: Mapping[str, Sequence[Any]] = {
    # Each would change the answer; what it may be nevertheless, because it changes nothing. Also 0, false and empty.
    **dict.fromkeys(("logit_bias", "frequency_penalty", "presence_penalty", "tools", "functions", "audio"), ()),
    **dict.fromkeys(("tool_choice", "function_call"), ("none", "auto")),
    "modalities": [["text"]],
    # vLLM's own
    **dict.fromkeys(("min_p", "min_tokens", "ignore_eos", "use_beam_search", "bad_words"), ()),
    **dict.fromkeys(("stop_token_ids", "allowed_token_ids", "structured_outputs", "chat_template", "echo"), ()),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar", "continue_final_message"), ()),
    **dict.fromkeys(("repetition_penalty", "length_penalty", "best_of"), (1,)),
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


class JsonSchema(BaseModel):
    """A schema that the answer satisfies, `strict` or not; its name is the client's own affair."""

    name: str = Field(min_length=1)
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """What the answer's text must be."""

    type: str
    json_schema: JsonSchema | None = None

    def text(self) -> str | None:
        """The schema as `Sampling` carries it; None for free text.

        Raises:
            InvalidRequest: A type that is not known, or no schema where one is needed.
        """
        if self.type == "json_schema" and self.json_schema:
            return schema_text(self.json_schema.schema_)
        if self.type in ("text", "json_object"):
            return ANY_OBJECT if self.type == "json_object" else None
        told = "has no json_schema" if self.type == "json_schema" else f"cannot be of type {self.type!r}"
        remedy = "Use text, json_object or json_schema, the latter with a name and a schema."
        raise InvalidRequest(f"The response format {told}.", where="response_format", remedy=remedy)


class LoadRequest(BaseModel):
    """Body of `/v1/load_lora_adapter`."""

    lora_name: str
    lora_path: str
    pinned: bool = False
    """Ours: keep the weights in memory, whatever else needs room."""


class UnloadRequest(BaseModel):
    """Body of `/v1/unload_lora_adapter`."""

    lora_name: str


class ChatRequest(BaseModel):
    """The body of a chat completion. Fields that would change the answer and cannot be honoured are refused.

    An absent temperature means greedy, since that is what a gate certifies; the OpenAI service would take 1.
    """

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = Field(default=None, ge=-1, description="vLLM's; 0 and -1 are all tokens")
    n: int | None = Field(default=1, ge=1, le=MAX_CHOICES)
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    prompt_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS, description="vLLM's; not for streams")
    response_format: ResponseFormat | None = None
    deadline_s: float | None = Field(default=None, gt=0, description="ours: seconds from now")
    ensemble: list[str] | None = Field(
        default=None, min_length=2, max_length=MAX_CHOICES, description="ours: models that choose each token together"
    )
    raw: bool = Field(default=False, description="ours: the one message is continued as it stands, without template")
    user: str | None = Field(default=None, description="whose requests take turns with those of others")

    def check(self) -> None:
        """Refuse what this engine cannot do, rather than answer as if it had not been asked.

        Raises:
            InvalidRequest: `where` names the field.
        """
        for name, value in (self.model_extra or {}).items():
            if value and name in _REFUSED and value not in _REFUSED[name]:
                raise InvalidRequest(f"{name} is not supported by this engine.", where=name, remedy="Leave it out.")
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs.", where="top_logprobs", remedy="Set logprobs to true.")
        if self.raw and len(self.messages) != 1:
            raise InvalidRequest("A raw text is one message.", where="messages", remedy="Send one, or leave raw out.")
        if self.stream and self.prompt_logprobs is not None:
            what = "prompt_logprobs cannot be streamed."
            raise InvalidRequest(what, where="prompt_logprobs", remedy="Ask for the whole answer.")

    def turns(self) -> list[dict[str, str]]:
        """The conversation as the engine takes it."""
        return [message.plain(f"messages[{n}]") for n, message in enumerate(self.messages)]

    def shown(self) -> list[dict[str, Any]]:
        """The same, with a place for the last picture; see `serving.parts.shown`."""
        turns = parts.shown([message.model_dump() for message in self.messages])
        plain = [Message(**turn).plain(f"messages[{n}]") for n, turn in enumerate(turns)]
        return [turn | told for turn, told in zip(turns, plain, strict=True)]

    def sampling(self) -> Sampling:
        """How tokens are to be chosen.

        Raises:
            InvalidRequest: A value out of range, or a response format that cannot be kept to.
        """
        limits = [limit for limit in (self.max_completion_tokens, self.max_tokens) if limit is not None]
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_tokens=limits[0] if limits else DEFAULT_MAX_TOKENS,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=stop,
            top_k=max(0, self.top_k or 0),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            schema=self.response_format.text() if self.response_format else None,
            deadline_s=self.deadline_s,
        )


@dataclass(frozen=True)
class Wire:
    """One answer's frame: the fields that all of its chunks, or its one body, have in common.

    Attributes:
        spell: A token's bytes; given when log probabilities were asked for.
        logprobs: Whether they were asked for of the answer, and not only of the prompt.
    """

    model: str
    fingerprint: str
    include_usage: bool = False
    spell: Callable[[int], bytes] | None = None
    logprobs: bool = True
    id: str = field(default_factory=lambda: new_id("chatcmpl"))
    created: int = field(default_factory=lambda: int(time.time()))

    def chunk(
        self,
        delta: dict[str, str],
        index: int = 0,
        finish_reason: str | None = None,
        logprobs: Sequence[TokenLogprob] | dict[str, Any] = (),
    ) -> bytes:
        """A server-sent event with one choice; log probabilities as they were found, or as they are told."""
        told = logprobs if isinstance(logprobs, dict) else self._logprobs(logprobs) if logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": told, "finish_reason": finish_reason}
        body = self._frame("chat.completion.chunk") | {"choices": [choice]}
        return event(body | {"usage": None} if self.include_usage else body)

    def usage_chunk(self, prompt: int, completion: int) -> bytes:
        """The last chunk of a stream that asked for it."""
        return event(self._frame("chat.completion.chunk") | {"choices": [], "usage": usage(prompt, completion)})

    def body(
        self, choices: Sequence[tuple[str, str | None, Sequence[TokenLogprob]]], prompt: int, completion: int
    ) -> dict[str, Any]:
        """A whole answer: (text, finish reason, log probabilities) per choice, and the tokens it took."""
        return self._frame("chat.completion") | {
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": self._logprobs(logprobs),
                    "finish_reason": reason,
                }
                for index, (text, reason, logprobs) in enumerate(choices)
            ],
            "usage": usage(prompt, completion),
        }

    def prompt_logprobs(self, tokens: Sequence[TokenLogprob]) -> list[dict[str, Any] | None]:
        """As vLLM tells them: None for the first token, then by token id, the prompt's own first."""
        return [None, *(self._ranked(told) for told in tokens)]

    def _ranked(self, told: TokenLogprob) -> dict[str, Any]:
        assert self.spell is not None
        others = [(token, logprob) for token, logprob in told.top if token != told.token]
        known = [(told.token, told.logprob), *others]
        return {
            str(token): {"logprob": logprob, "decoded_token": self.spell(token).decode(errors="replace")}
            for token, logprob in known
        }

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if self.spell is None or not self.logprobs:
            return None
        content = [
            _spelt(self.spell(told.token), told.logprob)
            | {"top_logprobs": [_spelt(self.spell(token), logprob) for token, logprob in told.top]}
            for told in tokens
        ]
        return {"content": content, "refusal": None}

    def _frame(self, kind: Literal["chat.completion", "chat.completion.chunk"]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def _spelt(spelling: bytes, logprob: float) -> dict[str, Any]:
    """A token on the wire; one that is only a part of a character is whole in its bytes alone."""
    return {"token": spelling.decode(errors="replace"), "logprob": logprob, "bytes": list(spelling)}


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Token counts as the dialect names them."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def envelope(error: MoatelierError) -> dict[str, Any]:
    """An error as OpenAI clients read it; `param` is where it was wrong."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    message = f"{error.what} {error.remedy}".strip()
    return {"error": {"message": message, "type": kind, "param": error.where or None, "code": error.code}}
