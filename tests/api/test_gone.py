"""Many clients of streams that are slow, gone or half there: in the end nothing of them is left."""

import asyncio
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from api.app import create_app
from serving import connection
from store import keys, tasks
from tests.api import fake_engine
from tests.api.fake_worker import FakeWorker
from tests.api.running import running, wait_until, watched

AT_ONCE = 50
RST = struct.pack("ii", 1, 0)
"""SO_LINGER by which a closed socket says nothing but that it is gone."""


def say(words: str) -> bytes:
    body = {"model": fake_engine.BASE, "stream": True, "messages": [{"role": "user", "content": words}]}
    return json.dumps(body).encode()


def read_some(opened: socket.socket, drawn: random.Random) -> None:
    opened.settimeout(0.2)  # a stream of a run that does nothing says nothing
    for _ in range(drawn.randint(1, 5)):
        opened.recv(drawn.choice((1, 100, 65536)))
        time.sleep(drawn.random() * 0.02)


def leaves(opened: socket.socket, drawn: random.Random) -> None:
    """Slow, then closes in order."""
    read_some(opened, drawn)


def is_gone(opened: socket.socket, drawn: random.Random) -> None:
    """Gone from one moment to the next."""
    if drawn.random() < 0.7:
        read_some(opened, drawn)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)


def half_closes(opened: socket.socket, drawn: random.Random) -> None:
    """Says that it will say no more, and waits."""
    opened.shutdown(socket.SHUT_WR)
    try:
        while opened.recv(65536):
            pass
    except TimeoutError:
        raise AssertionError("the server still holds a client that has half left") from None


def stalls(opened: socket.socket, drawn: random.Random) -> None:
    """Takes nothing and does not leave: the server must."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        time.sleep(0.1)
        opened.sendall(b"x")  # an OSError as soon as nobody is there any more
    raise AssertionError("the server still holds a client that takes nothing")


KINDS: list[tuple[Callable[[socket.socket, random.Random], None], str]] = [
    (leaves, "slow"),
    (is_gone, "slow"),
    (is_gone, "flood"),
    (half_closes, "slow"),
    (stalls, "flood"),
]


def client(port: int, number: int, requests: list[tuple[str, str, bytes]], key: str, failed: list[str]) -> None:
    drawn = random.Random(number)
    act, words = KINDS[number % len(KINDS)]
    method, path, body = ("POST", "/v1/chat/completions", say(words)) if number % 3 else drawn.choice(requests)
    if act is stalls:
        method, path, body = "POST", "/v1/chat/completions", say(words)
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\naccept: text/event-stream\r\n"
    try:
        with socket.socket() as opened:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            opened.settimeout(20)
            opened.connect(("127.0.0.1", port))
            opened.sendall(
                f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
            )
            act(opened, drawn)
    except AssertionError as error:
        failed.append(str(error))
    except OSError:
        pass  # the server was quicker


@pytest.mark.parametrize("clients", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_clients_that_leave_leave_nothing_behind(home: Any, monkeypatch: pytest.MonkeyPatch, clients: int) -> None:
    monkeypatch.setattr(connection, "STALLED_MS", 300)
    key, engine, worker = keys.ensure_admin(), fake_engine.Engine(), FakeWorker()
    thread = tasks.create_thread("default", graph="conversation", metadata={"graph_id": "conversation"})
    run = tasks.create_run("default", thread=thread.id, input={"messages": [{"role": "user", "content": "hang"}]})
    worker.submit_run(run.id)
    task = tasks.create_task(
        "default", id="task-1", thread="t", conversation=thread.id, request="x", train_file="f", test_file=None
    )
    requests = [("GET", f"/threads/{thread.id}/runs/{run.id}/stream", b""), ("GET", f"/tasks/{task.id}/events", b"")]
    requests.append(("GET", f"/threads/{thread.id}/runs/{run.id}/join", b""))
    failed: list[str] = []
    with (
        running(fake_engine.create(engine)) as url,
        watched(create_app(url), http=connection.Prompt) as (place, server),
    ):
        port = int(place.rsplit(":", 1)[1])
        loop = next(iter(server.servers)).get_loop()

        def running_tasks() -> int:
            return len(asyncio.all_tasks(loop))

        client(port, 0, requests, key, failed)
        wait_until(lambda: not server.server_state.connections)
        before = running_tasks()
        for start in range(0, clients, AT_ONCE):
            wave = [
                threading.Thread(target=client, args=(port, number, requests, key, failed))
                for number in range(start, min(start + AT_ONCE, clients))
            ]
            for one in wave:
                one.start()
            for one in wave:
                one.join()
        wait_until(lambda: not server.server_state.connections and not server.server_state.tasks, timeout_s=30)
        wait_until(lambda: running_tasks() <= before, timeout_s=30)
        assert not failed
        worker.cancel_run(run)
        worker.close()
