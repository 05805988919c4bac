"""Chat completions with `model: "moatelier"`: the conversation that makes tasks, for any page that can chat.

Progress is text. What is asked (a question, the approval of a plan) ends an answer, and the person's next words answer
it. api/chatting.py finds the thread.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from anyio import to_thread
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from sse_starlette import EventSourceResponse

from api import chatting, telling
from api.auth import need_train
from api.bodies import wants_usage
from api.follow import follow
from api.routes.threads.following import HEARTBEAT_S
from api.routes.threads.requests import read_metadata
from moatelier.contracts import now
from moatelier.errors import InvalidRequest
from moatelier.ids import new_id
from serving import sse
from store import tasks

NAME = "moatelier"
REFUSED: Mapping[str, tuple[Any, ...]] = {
    # Each would change the answer; what it may be nevertheless, because it changes nothing.
    "n": (None, 1),
    "logprobs": (None, False),
    "tools": (None, []),
    "functions": (None, []),
    "audio": (None,),
    "response_format": (None, {"type": "text"}),
}
NO_TOKENS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
"""What is said here comes from no model."""


@dataclass(frozen=True)
class Frame:
    """What all chunks of one answer, or its one body, have in common."""

    heard: chatting.Heard
    id: str = field(default_factory=lambda: new_id("chatcmpl"))
    created: int = field(default_factory=lambda: int(now().timestamp()))

    def chunk(self, delta: dict[str, str], finish: str | None = None, **more: Any) -> bytes:
        """A piece of a streamed answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return sse.event(self._frame("chat.completion.chunk") | {"choices": [choice]} | more)

    def usage(self) -> bytes:
        """The chunk after the last, for those who asked for it."""
        return sse.event(self._frame("chat.completion.chunk") | {"choices": [], "usage": NO_TOKENS})

    def body(self, text: str, told: dict[str, Any]) -> dict[str, Any]:
        """A whole answer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return self._frame("chat.completion") | {"choices": [choice], "usage": NO_TOKENS, "moatelier": told}

    def _frame(self, kind: str) -> dict[str, Any]:
        frame = {"id": self.id, "object": kind, "created": self.created, "model": NAME}
        return frame | {"system_fingerprint": "fp_conversation"}

    def told(self) -> dict[str, Any]:
        """Where the conversation stands, for clients that want to go on with the threads API (blocking)."""
        part, thread = self.heard.part, tasks.find_thread(self.heard.thread)
        run = tasks.find_run(part.run.id) if part else None
        stands = {"thread_id": thread.id, "status": thread.status, "task": thread.task}
        return stands | {"run_id": run.id if run else None, "interrupts": thread.interrupts}


async def complete(request: Request, project: str, body: dict[str, Any]) -> Response:
    """One answer of the conversation, whole or as a stream. A client that hangs up stops nothing.

    Raises:
        Forbidden: The key does not open trainings, which this may start.
        InvalidRequest: Nobody has said anything, or a field cannot be honoured.
        NotFound: `metadata.thread_id` or a file names nothing.
        Conflict: The thread cannot take this up now.
    """
    need_train(request)
    for name, allowed in REFUSED.items():
        if body.get(name) not in allowed:
            what = f"A conversation has no {name}."
            raise InvalidRequest(what, where=name, remedy="Leave it out.")
    named = read_metadata(body).get("thread_id")
    chat = chatting.read(project, body)
    heard = await to_thread.run_sync(chatting.hear, project, chat, None if named is None else str(named))
    frame, headers = Frame(heard), {"x-moatelier-thread": heard.thread}
    if body.get("stream"):
        return EventSourceResponse(_stream(frame, wants_usage(body)), sep="\n", headers=headers)
    return StreamingResponse(_whole(frame), media_type="application/json", headers=headers)


async def _pieces(heard: chatting.Heard) -> AsyncIterator[str]:
    if heard.prelude:
        yield heard.prelude
    if heard.part is None:
        return
    teller = telling.Teller()
    async for event in follow(heard.part.look, heard.part.start):
        if piece := teller.tell(event):
            yield piece


async def _stream(frame: Frame, include_usage: bool) -> AsyncIterator[bytes]:
    blank = {"usage": None} if include_usage else {}
    yield frame.chunk({"role": "assistant", "content": ""}, **blank)
    async for piece in _pieces(frame.heard):
        yield frame.chunk({"content": piece}, **blank)
    yield frame.chunk({}, "stop", moatelier=await to_thread.run_sync(frame.told), **blank)
    if include_usage:
        yield frame.usage()
    yield b"data: [DONE]\n\n"


async def _whole(frame: Frame) -> AsyncIterator[bytes]:
    """The answer as JSON behind line breaks that keep the connection alive: a training may be in between."""

    async def text() -> str:
        return "".join([piece async for piece in _pieces(frame.heard)])

    making = asyncio.ensure_future(text())
    try:
        while not (await asyncio.wait({making}, timeout=HEARTBEAT_S))[0]:
            yield b"\n"
        body = frame.body(making.result(), await to_thread.run_sync(frame.told))
        yield json.dumps(body, ensure_ascii=False).encode()
    finally:
        making.cancel()
