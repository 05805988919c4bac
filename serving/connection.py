"""A connection that must say what it wants in time, and take what it is sent: uvicorn alone waits for ever."""

import asyncio
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 20.0
"""From the first sign of a request, or of the connection, to the end of the request's headers."""
STALLED_MS = 60_000
"""A client that takes nothing for so long, or is gone without a word, is let go of (Linux: TCP_USER_TIMEOUT)."""


class Prompt(H11Protocol):
    """HTTP/1.1 with a time limit for headers. Bodies have limits of their own, where they are read."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        raw = transport.get_extra_info("socket")
        if hasattr(socket, "TCP_USER_TIMEOUT") and raw is not None and raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_MS)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait on for the rest of the headers, or no more."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait()
        elif self._late is not None:
            self._late.cancel()
            self._late = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEADERS_S, self.transport.close)
