"""Server-sent events as chat completions use them: one `data:` line an event."""

import json
from collections.abc import AsyncIterator
from typing import Any

from moatelier.errors import UpstreamError

END = b"[DONE]"


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The `data:` fields of a stream of bytes cut anywhere; a server writes each event's data on one line."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
    if rest.startswith(b"data:"):
        yield rest[5:].strip()


async def bodies(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The events' JSON objects, read to the very end: only then does the connection serve the next request.

    Raises:
        UpstreamError: An event is none, or the stream ends before `[DONE]`.
    """
    done = False
    async for data in events(chunks):
        if data == END:
            done = True
            continue
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UpstreamError("The upstream's stream holds an event that is not JSON.") from error
        if not isinstance(body, dict):
            raise UpstreamError("The upstream's stream holds an event that is not a JSON object.")
        yield body
    if not done:
        raise UpstreamError("The engine's answer broke off.", remedy="Send the request again.")


def event(body: dict[str, Any]) -> bytes:
    """One event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
