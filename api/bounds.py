"""Bodies are bounded in bytes, depth and time while they come in, before anything looks at them."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from anyio import to_thread
from starlette.types import Message, Receive

from moatelier.errors import Cancelled, InvalidRequest, MoatelierError, TooLarge, TooSlow
from moatelier.settings import settings

DEPTH = 64
"""Levels of lists and objects within one another; the deepest that a client of ours sends is a JSON schema."""
MB = 1_000_000
WINDOW = 1 << 18
"""Bytes that are looked at in one go; a longer body is looked at in a thread."""
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_WHOLE = re.compile(rb'(?:[^"]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
_OTHERS = bytes(code for code in range(256) if code not in b"[]{}")


def declared(headers: dict[bytes, bytes]) -> int | None:
    """The bytes that a request says its body has; None: it says nothing (chunked); 0: there is no body.

    Raises:
        InvalidRequest: It says something else than a number.
    """
    if b"transfer-encoding" in headers:
        return None
    length = headers.get(b"content-length", b"0")
    if not (length.isdigit() and len(length) < 19):
        raise InvalidRequest("The length of the body is no number.", where="content-length")
    return int(length)


class Bounded:
    """A request's body as it comes in.

    Args:
        receive: The server's.
        length: What `declared` found.
        upload: The larger bounds hold.

    Raises:
        TooLarge: It says that it is too long.
    """

    def __init__(self, receive: Receive, length: int | None, *, upload: bool) -> None:
        self._receive, self._upload = receive, upload
        self.most = round(MB * (settings().upload_mb if upload else settings().body_mb))
        self._deadline = _now() + (settings().upload_timeout_s if upload else settings().body_timeout_s)
        self.bytes = 0
        """So many have come."""
        self.whole = length == 0
        """All of it has come in."""
        self.error: MoatelierError | None = None
        """Why reading it has ended early."""
        if length is not None and length > self.most:
            raise self._too_large()

    def _too_large(self) -> TooLarge:
        setting = "MOATELIER_UPLOAD_MB" if self._upload else "MOATELIER_BODY_MB"
        what = f"The body has more than {self.most} bytes."
        return TooLarge(what, remedy=f"Send less at once, or have {setting} raised.")

    async def receive(self) -> Message:
        """The next piece; after the last, what the server has to say (that the client is gone), however late.

        Raises:
            TooLarge, TooSlow: As the names say; `error` keeps it, since who reads may turn it into something else.
        """
        if self.whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(min(self._deadline, _now() + settings().body_timeout_s)):
                message = await self._receive()
        except TimeoutError:
            self.error = TooSlow("The body was not there in time.", remedy="Send it faster, or in smaller parts.")
            raise self.error from None
        self.bytes += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self.bytes > self.most:
            self.error = self._too_large()
            raise self.error
        return message

    async def json(self) -> Receive:
        """Read all of it, and hand it out again in one piece.

        Raises:
            TooLarge, TooSlow: As above.
            InvalidRequest: It is nested too deeply, or is UTF-16 or UTF-32.
            Cancelled: The client has left.
        """
        pieces = list[bytes]()
        while not self.whole:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Cancelled("The client closed the connection before all was sent.")
            pieces.append(message.get("body", b""))
        body = b"".join(pieces)
        if not json.detect_encoding(body).startswith("utf-8"):  # brackets would hide from `depth`
            raise InvalidRequest("The body is not UTF-8.", remedy="Send JSON as UTF-8.")
        levels = depth(body) if len(body) <= WINDOW else await to_thread.run_sync(depth, body)
        if levels > DEPTH:
            raise InvalidRequest(f"The body is nested more than {DEPTH} levels deep.", remedy="Send a flatter one.")
        return replayed(body, self._receive)

    async def drain(self, seconds: float = 2.0) -> None:
        """Read on for a moment and throw away: a client that is still sending would miss the answer otherwise."""
        try:
            async with asyncio.timeout(seconds):
                while not self.whole:
                    message = await self._receive()
                    self.whole = message["type"] == "http.disconnect" or not message.get("more_body", False)
        except TimeoutError:
            pass


def _now() -> float:
    return asyncio.get_running_loop().time()


def replayed(body: bytes, receive: Callable[[], Awaitable[Any]]) -> Receive:
    """A body that was read already, then what the server says."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()  # type: ignore[no-any-return]
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def depth(body: bytes) -> int:
    """How many levels of lists and objects lie within one another, JSON or not; more than `DEPTH` is told as some more.

    Time grows with length.
    """
    if body.count(b"[") + body.count(b"{") <= DEPTH:
        return 0
    level = deepest = start = 0
    while start < len(body) and deepest <= DEPTH:
        # By windows that end outside of strings: no call holds up other threads for long.
        end = _ends(body, start)
        brackets = np.frombuffer(_STRINGS.sub(b"", body[start:end]).translate(None, _OTHERS), dtype=np.uint8)
        if len(brackets):
            levels = level + np.cumsum(np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1))
            level, deepest = int(levels[-1]), max(deepest, int(levels.max()))
        start = end
    return deepest


def _ends(body: bytes, start: int) -> int:
    """Where the window ends that starts outside of strings: a string that is longer is in it as a whole."""
    whole = _WHOLE.match(body, start, start + WINDOW)
    end = whole.end() if whole else start
    if end == min(start + WINDOW, len(body)):
        return end
    last = _STRINGS.match(body, end)
    return last.end() if last else len(body)
