"""An endpoint with models that are well, and models that fail in every way a model can.

A model's name says what it does: `well`, `well-2`, ... answer what the last message asks for; `hung`, `slow`, `babble`,
`junk`, `empty`, `down`, `cut` and `killed` do not. Written on bare sockets, so that hundreds of requests take seconds.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

FAULTS = ("killed", "hung", "slow", "babble", "junk", "empty", "down", "cut")
SLOW_S = 8.0


class Models:
    """What the endpoint was asked, and what its good models answer."""

    def __init__(self, answer: str = "parcel", likelihood: float = -0.1) -> None:
        self.answer, self.likelihood = answer, likelihood
        self.asked: list[dict[str, Any]] = []
        self.ending = asyncio.Event()
        self._open: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self._open[asyncio.current_task()] = writer
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length:")[1].split("\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                self.asked.append(body)
                if not await self._answer(body, writer):
                    break
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        del self._open[asyncio.current_task()]

    async def end(self) -> None:
        """Close what is open; whoever hangs is woken."""
        self.ending.set()
        for writer in self._open.values():
            writer.close()
        await asyncio.gather(*(task for task in self._open if task))

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ending.wait(), seconds)

    async def _answer(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        kind = str(body["model"]).split("-")[0]
        if kind == "hung":
            await self._pause(3600)
        if kind == "slow":
            await self._pause(SLOW_S)
        if kind == "killed":
            return False
        if kind == "down":
            return await _send(writer, b'{"error": {"message": "CUDA error"}}', status="500 Internal Server Error")
        if kind == "junk":
            return await _send(writer, b'{"choices": [{"message": {"content": 3}}, \xff')
        said = {"babble": "\ud83d zxq \u0000 ### 9999", "empty": " "}.get(kind, self.answer)
        whole = json.dumps(completion(said, self.likelihood if kind != "babble" else 1000.0)).encode()
        return await _send(writer, whole, cut=kind == "cut")


def completion(text: str, likelihood: float) -> dict[str, Any]:
    """A chat completion of two tokens."""
    token = {"token": "x", "logprob": likelihood, "bytes": None, "top_logprobs": []}
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": [token, token]}}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}


async def _send(writer: asyncio.StreamWriter, body: bytes, status: str = "200 OK", *, cut: bool = False) -> bool:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + (body[: len(body) // 2] if cut else body))
    await writer.drain()
    return not cut


@asynccontextmanager
async def serving(models: Models) -> AsyncIterator[str]:
    """The endpoint, on loopback; yields its address."""
    server = await asyncio.start_server(models.handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await models.end()
