"""Requests to `/v1/responses` as conversations, and answers as responses: whole, or as the events of their making."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moatelier.contracts import now
from moatelier.errors import InvalidRequest
from moatelier.ids import new_id
from serving import sse

REFUSED: dict[str, tuple[Any, ...]] = {
    # Each would change the answer; what it may be nevertheless, because it changes nothing.
    "background": (None, False),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "conversation": (None,),
    "prompt": (None,),
    "reasoning": (None, {}),
    "truncation": (None, "disabled"),
    "moderation": (None,),
    "context_management": (None, []),
    "max_tool_calls": (None,),
}
LOGPROBS = "message.output_text.logprobs"
ROLES = ("user", "assistant", "system", "developer")


def check_fields(body: Mapping[str, Any]) -> None:
    """Refuse what cannot be honoured. Raises InvalidRequest."""
    for name, allowed in REFUSED.items():
        if body.get(name) not in allowed:
            raise InvalidRequest(f"{name} is not supported.", where=name, remedy="Leave it out.")
    if set(body.get("include") or ()) - {LOGPROBS}:
        raise InvalidRequest("include knows nothing else.", where="include", remedy=f"Use {LOGPROBS}.")
    if (_text(body).get("verbosity") or "medium") != "medium":
        raise InvalidRequest("verbosity is not supported.", where="text.verbosity", remedy="Leave it out.")


def _text(body: Mapping[str, Any]) -> Mapping[str, Any]:
    text = body.get("text") or {}
    if not isinstance(text, dict):
        raise InvalidRequest("`text` is an object.", where="text")
    return text


def read_items(value: Any) -> list[dict[str, Any]]:
    """What was asked, as items with ids, in one shape however it was sent.

    Raises:
        InvalidRequest: It holds what is no message.
    """
    items = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        raise InvalidRequest("The request has no input.", where="input", remedy="Send a text, or a list of messages.")
    return [_item(item, f"input[{number}]") for number, item in enumerate(items)]


def _item(item: Any, where: str) -> dict[str, Any]:
    kind = item.get("type", "message") if isinstance(item, dict) else type(item).__name__
    if kind != "message" or item.get("role") not in ROLES:
        what = f"An item of type {kind!r} is not supported, or has no known role."
        raise InvalidRequest(what, where=where, remedy=f"Send messages of {', '.join(ROLES)}.")
    content, said = item.get("content"), "output_text" if item["role"] == "assistant" else "input_text"
    parts = [{"type": said, "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise InvalidRequest("A message's content is a text or a list of parts.", where=f"{where}.content")
    for number, part in enumerate(parts):
        _part(part, f"{where}.content[{number}]")  # refused now, before anything is asked
    id = item.get("id") if isinstance(item.get("id"), str) else new_id("msg")
    return {"id": id, "type": "message", "role": item["role"], "status": "completed", "content": parts}


def _part(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A part as chat completions take it."""
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text") and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    raise InvalidRequest(
        f"A part of type {kind!r} is not supported, or lacks its field.",
        where=where,
        remedy="Send input_text, input_image with a data URI as image_url, or input_audio.",
    )


def messages(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Items, asked or answered, as chat completions take them: a text alone as a text."""
    turns = []
    for item in items:
        parts = [_part(part, "input") for part in item["content"]]
        plain = all(part["type"] == "text" for part in parts)
        turns.append({"role": item["role"], "content": "".join(part["text"] for part in parts) if plain else parts})
    return turns


def asked(body: Mapping[str, Any], turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The chat completion that answers."""
    system = [{"role": "system", "content": str(body["instructions"])}] if body.get("instructions") else []
    chat: dict[str, Any] = {"model": body.get("model"), "messages": [*system, *turns]}
    chat |= {name: body[name] for name in ("temperature", "top_p", "seed", "metadata") if body.get(name) is not None}
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    if (form := _text(body).get("format")) is not None:
        chat["response_format"] = _format(form)
    if body.get("top_logprobs") or LOGPROBS in (body.get("include") or ()):
        chat |= {"logprobs": True, "top_logprobs": body.get("top_logprobs") or 0}
    return chat


def _format(form: Any) -> dict[str, Any]:
    if not isinstance(form, dict):
        raise InvalidRequest("A format is an object.", where="text.format")
    if form.get("type") != "json_schema":
        return {"type": form.get("type")}
    return {"type": "json_schema", "json_schema": {name: form[name] for name in form if name != "type"}}


@dataclass
class Answer:
    """A response while it is made.

    Attributes:
        request: The body that asked.
        model: Who answers, by its public name.
        text: What has been said.
        logprobs: Of its tokens.
        usage: As chat counts it.
        completion: The chat completion's id, by which feedback is joined.
    """

    request: Mapping[str, Any]
    model: str
    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None
    usage: Mapping[str, Any] | None = None
    completion: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: new_id("resp"))
    item: str = field(default_factory=lambda: new_id("msg"))
    created: int = field(default_factory=lambda: int(now().timestamp()))

    @property
    def status(self) -> str:
        """`completed`, or `incomplete` when its tokens ran out."""
        return "incomplete" if self.finish in ("length", "content_filter") else "completed"

    def message(self, status: str) -> dict[str, Any]:
        """The one item of its output."""
        content = [self.part()] if status != "in_progress" else []
        return {"id": self.item, "type": "message", "role": "assistant", "status": status, "content": content}

    def part(self) -> dict[str, Any]:
        """The one part of its message."""
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs}

    def body(self, status: str, error: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The response as it stands."""
        told = self.request.get
        ended = status in ("completed", "incomplete")
        reason = "content_filter" if self.finish == "content_filter" else "max_output_tokens"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": reason} if status == "incomplete" else None,
            "instructions": told("instructions"),
            "max_output_tokens": told("max_output_tokens"),
            "metadata": told("metadata") or {},
            "model": self.model,
            "output": [self.message(status)] if ended else [],
            "parallel_tool_calls": False,
            "previous_response_id": told("previous_response_id"),
            "reasoning": None,
            "store": told("store") is not False,
            "temperature": told("temperature"),
            "text": told("text") or {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_logprobs": told("top_logprobs") or 0,
            "top_p": told("top_p"),
            "truncation": "disabled",
            "usage": _usage(self.usage) if ended else None,
            "user": told("user"),
            "moatelier": {**self.extra, "completion": self.completion},
        }

    def take(self, chunk: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        """Add what a chunk of a chat completion says; that piece alone."""
        self.completion, self.model = str(chunk.get("id", self.completion)), str(chunk.get("model", self.model))
        self.usage, self.extra = chunk.get("usage") or self.usage, chunk.get("moatelier") or self.extra
        piece = ""
        told: list[dict[str, Any]] = []
        for choice in chunk["choices"][:1]:
            said = choice.get("delta") or choice.get("message") or {}
            piece += said.get("content") or ""
            told += (choice.get("logprobs") or {}).get("content") or []
            self.finish = choice.get("finish_reason") or self.finish
        self.text += piece
        self.logprobs += told
        return piece, told


def _usage(usage: Mapping[str, Any] | None) -> dict[str, Any]:
    counted = {name: int((usage or {}).get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}
    prompt, completion = counted["prompt_tokens"], counted["completion_tokens"]
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }


async def events(
    answer: Answer, chunks: AsyncIterator[dict[str, Any]], keep: Callable[[dict[str, Any]], Any]
) -> AsyncIterator[bytes]:
    """The events of a response's making, numbered; it is kept before its last one is told."""
    number = -1

    def event(kind: str, **fields: Any) -> bytes:
        nonlocal number
        number += 1
        told = {"type": kind, "sequence_number": number, **fields}
        return f"event: {kind}\n".encode() + sse.event(told)

    place = {"item_id": answer.item, "output_index": 0, "content_index": 0}
    yield event("response.created", response=answer.body("in_progress"))
    yield event("response.in_progress", response=answer.body("in_progress"))
    yield event("response.output_item.added", output_index=0, item=answer.message("in_progress"))
    yield event("response.content_part.added", **place, part=answer.part())
    async for chunk in chunks:
        if "error" in chunk:
            error = {"code": "server_error", "message": str(chunk["error"].get("message", ""))}
            yield event("response.failed", response=answer.body("failed", error))
            return
        piece, told = answer.take(chunk)
        if piece or told:
            yield event("response.output_text.delta", **place, delta=piece, logprobs=told)
    yield event("response.output_text.done", **place, text=answer.text, logprobs=answer.logprobs)
    yield event("response.content_part.done", **place, part=answer.part())
    yield event("response.output_item.done", output_index=0, item=answer.message(answer.status))
    body = answer.body(answer.status)
    await keep(body)
    yield event(f"response.{answer.status}", response=body)
