"""The api as a process of its own: it starts without torch, ends in time, and a client survives its restart."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_sync_client

from store import keys, tasks
from tests.api.fake_worker import FakeWorker
from tests.api.running import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def process(home: Path, port: int, pipe: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    env = {**os.environ, "MOATELIER_HOME": str(home), "MOATELIER_PORT": str(port), "MOATELIER_ENGINE_PORT": "9"}
    if pipe is not None:
        env["MOATELIER_SUPERVISOR_PIPE"] = str(pipe)
    passed = () if pipe is None else (pipe,)
    with (home / "api.log").open("ab") as log:
        started = subprocess.Popen([sys.executable, "-m", "api.app"], env=env, pass_fds=passed, stdout=log, stderr=log)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def wait_for(port: int, started: subprocess.Popen[bytes]) -> None:
    def answers() -> bool:
        assert started.poll() is None, "the process ended"
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        except httpx.ConnectError:
            return False

    wait_until(answers, timeout_s=60)


def test_a_client_that_follows_a_run_survives_a_restart(home: Path, port: int) -> None:
    worker, key = FakeWorker(), keys.ensure_admin()
    parts: list[Any] = []

    def follow(thread: str, run: str) -> None:
        with get_sync_client(url=f"http://127.0.0.1:{port}", api_key=key) as client:
            parts.extend(client.runs.join_stream(thread, run))

    thread = tasks.create_thread("default", graph="conversation")
    run = tasks.create_run("default", thread=thread.id, input={"messages": [{"role": "user", "content": "hang"}]})
    worker.submit_run(run.id)
    with process(home, port) as first:
        wait_for(port, first)
        assert "libtorch" not in Path(f"/proc/{first.pid}/maps").read_text()
        follower = threading.Thread(target=follow, args=(thread.id, run.id))
        follower.start()
        time.sleep(1)
        begun = time.monotonic()
        first.send_signal(signal.SIGTERM)
        assert first.wait(10) == 0
        assert time.monotonic() - begun < 3, "open streams held the process up"
    worker.cancel_run(run)
    with process(home, port) as second:
        wait_for(port, second)
        follower.join(60)
    worker.close()
    said = [part.data["kind"] if part.event == "custom" else part.event for part in parts]
    assert [one for one in said if one != "metadata"] == ["message", "run", "values", "end"]


def test_it_leaves_with_its_supervisor_and_refuses_a_port_in_use(home: Path, port: int) -> None:
    read_end, write_end = os.pipe()
    with process(home, port, pipe=read_end) as started:
        os.close(read_end)
        wait_for(port, started)
        with process(home, port) as late:
            assert late.wait(60) == 1
        assert "service_running" in (home / "api.log").read_text()
        os.close(write_end)
        assert started.wait(5) == 0
