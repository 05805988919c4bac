"""Runs an ASGI application as a supervised process: a port of its own, prompt end, no life after the supervisor's."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

import uvicorn
from fastapi.telemetry import TelemetryConfig

from moatelier import tracing
from moatelier.errors import ServiceRunning
from serving.connection import Prompt

SUPERVISOR_PIPE = "MOATELIER_SUPERVISOR_PIPE"
"""Environment variable with the file descriptor whose end means that the supervisor is gone."""
TELEMETRY: TelemetryConfig = {"metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
"""What FastAPI is told: a span for each request once there is somewhere to send it, and nothing else. Its logs would
hold the words of exceptions."""
GRACE_S = 1
"""After SIGTERM open connections have this long to end by themselves."""
KEEP_S = 75
"""How long an idle connection is kept: longer than clients keep theirs. uvicorn's 5 s are those of httpx too: both
would close at the same moment, and a request on its way be lost."""
LAST_S = 2.5
"""After SIGTERM the process is gone by then, whatever it was in the middle of."""


def serve(app: Any, host: str, port: int, *, proxies: Sequence[str] = ()) -> None:
    """Serve until SIGTERM, SIGINT or the end of the supervisor's pipe; then leave the process with status 0.

    Args:
        app: The application.
        host: Where to listen.
        port: The same.
        proxies: Whose X-Forwarded headers are believed; nobody's, unless told.

    Raises:
        ServiceRunning: The port is in use.
    """
    listener = _bind(host, port)
    config = uvicorn.Config(
        app,
        log_config=None,  # its lines go where all others go
        access_log=False,
        http=Prompt,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        timeout_keep_alive=KEEP_S,
        timeout_graceful_shutdown=GRACE_S,
        lifespan="on",
    )
    server = _Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal once more when it is done
    if pipe := os.environ.pop(SUPERVISOR_PIPE, ""):
        threading.Thread(target=_follow, args=(int(pipe), server), daemon=True).start()
    server.run(sockets=[listener])
    _leave()


class _Server(uvicorn.Server):
    """uvicorn's server, with an end that does not depend on anyone's good will."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.end()
        super().handle_exit(sig, frame)

    def end(self) -> None:
        """Stop accepting, let go of what is open, and be gone in time."""
        self.should_exit = True
        last = threading.Timer(LAST_S, _leave)
        last.daemon = True
        last.start()


def _follow(pipe: int, server: _Server) -> None:
    while os.read(pipe, 1):
        pass
    server.end()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named TCP outright: asyncio sets TCP_NODELAY only then, and without it every answer waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ServiceRunning(
            f"The port cannot be used: {error.strerror}.",
            where=f"{host}:{port}",
            remedy="Stop what uses it, or set another one (MOATELIER_PORT, MOATELIER_ENGINE_PORT).",
        ) from error
    return listener


def _leave() -> None:
    tracing.flush()
    # Not sys.exit: the generation thread may be inside a step, and the interpreter would wait for it or crash on it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
