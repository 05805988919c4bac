"""A chat completion's answer for those who speak an older or a younger dialect: asked by the same way as chat itself.

Whatever `/v1/chat/completions` does with a request (routes, recipes, limits, its decision log), it does here too.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from sse_starlette import EventSourceResponse
from starlette.responses import Response

from api.routes.openai import chat
from api.services import Services
from serving import sse

Headers = dict[str, str]


async def whole(
    request: Request, project: str, shared: Services, body: Mapping[str, Any]
) -> tuple[dict[str, Any], Headers]:
    """One whole answer, and the response headers that say who gave it. Raises what chat raises."""
    answer = await chat.complete(request, project, shared, {**body, "stream": False})
    if isinstance(answer, StreamingResponse):  # one that took long, behind line breaks
        raw = b"".join([_bytes(piece) async for piece in answer.body_iterator])
    else:
        raw = bytes(answer.body)
    return dict(json.loads(raw)), _told(answer)


async def streamed(
    request: Request, project: str, shared: Services, body: Mapping[str, Any]
) -> tuple[AsyncIterator[dict[str, Any]], Headers]:
    """The chunks of a streamed answer; one that breaks off ends with `{"error": ...}`. Raises what chat raises."""
    answer = await chat.complete(request, project, shared, {**body, "stream": True})
    assert isinstance(answer, EventSourceResponse), "a stream was asked for"
    return _chunks(answer.body_iterator), _told(answer)


async def _chunks(pieces: Any) -> AsyncIterator[dict[str, Any]]:
    async with aclosing(pieces):
        async for data in sse.events(_encoded(pieces)):
            if data != sse.END:
                yield json.loads(data)


async def _encoded(pieces: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        yield _bytes(piece)


def _bytes(piece: Any) -> bytes:
    return piece.encode() if isinstance(piece, str) else bytes(piece)


def _told(answer: Response) -> Headers:
    return {name: value for name, value in answer.headers.items() if name.startswith("x-moatelier-")}
