"""The life of a server's process, with an application that imports no torch and never finishes an answer."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx
import pytest

from moatelier.errors import ServiceRunning
from serving.process import SUPERVISOR_PIPE, serve

APP = """
import asyncio, sys
from serving.process import serve
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"on", "more_body": True})
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if len(sys.argv) < 3:
                raise
serve(app, "127.0.0.1", int(sys.argv[1]))
"""


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(*arguments: str, pipe: int | None = None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The application in a process of its own, with an answer that is under way."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", APP, str(port), *arguments],
        pass_fds=() if pipe is None else (pipe,),
        env=os.environ | ({} if pipe is None else {SUPERVISOR_PIPE: str(pipe)}),
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        with httpx.Client(trust_env=False) as client, client.stream("GET", url) as answer:
            assert next(answer.iter_bytes()) == b"on"
            yield process, url
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("stubborn", [(), ("stubborn",)])
def test_sigterm_ends_it_within_three_seconds_whatever_is_open(stubborn: tuple[str, ...]) -> None:
    with server(*stubborn) as (process, _):
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - start < 3


def test_it_leaves_when_its_supervisor_is_gone() -> None:
    read_end, write_end = os.pipe()
    with server(pipe=read_end) as (process, _):
        os.close(read_end)
        assert process.poll() is None
        os.close(write_end)
        assert process.wait(5) == 0


def test_a_port_in_use_is_said_so() -> None:
    with closing(socket.socket()) as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        with pytest.raises(ServiceRunning, match="port") as refused:
            serve(None, "127.0.0.1", owner.getsockname()[1])
    assert "MOATELIER_PORT" in refused.value.remedy
