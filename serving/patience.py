"""How long a request may wait for its first step in the engine; whoever sends it says so in a header.

The API says so for what people ask. Jobs do not: they would rather wait than be refused.
"""

from contextvars import ContextVar
from math import isfinite

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

HEADER = "x-moatelier-queue-s"
_current: ContextVar[float | None] = ContextVar("moatelier.patience", default=None)


def patience_s() -> float | None:
    """Of the request that is being worked on; None without end."""
    return _current.get()


class Patience:
    """ASGI layer that reads the header."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        told = Headers(scope=scope).get(HEADER, "") if scope["type"] == "http" else ""
        token = _current.set(_seconds(told))
        try:
            await self.app(scope, receive, send)
        finally:
            _current.reset(token)


def _seconds(told: str) -> float | None:
    try:
        seconds = float(told)
    except ValueError:
        return None
    return seconds if isfinite(seconds) and seconds >= 0 else None
