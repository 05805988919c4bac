"""Asking an engine that dies: what is waited for, what is asked again, and what is believed."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from graphs import steady
from graphs.answering import Answers
from graphs.steady import MOST_LIVES, Steady, steadily
from moatelier.errors import Cancelled, InvalidRequest, UpstreamError
from moatelier.job import Job
from moatelier.settings import settings
from tests.api.running import running
from tests.e2e.harness import free_port

pytestmark = pytest.mark.usefixtures("home")


class Lives:
    """An engine that says when it was started, and work that fails in its first lives."""

    def __init__(self, dies: int = 0) -> None:
        self.created, self.dies, self.calls = 1, dies, 0
        self.fault: Exception = UpstreamError("The connection broke.")

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            return {"data": [{"id": settings().base, "created": self.created}]}

        return app

    async def work(self, answers: Answers, engine: Steady) -> str:
        self.calls += 1
        if self.calls <= self.dies:
            self.created += 1
            raise self.fault
        await engine.need()
        return "done"


def run(lives: Lives, folder: Path, work: Callable[..., Any] | None = None) -> Any:
    with running(lives.app()) as url:
        return asyncio.run(steadily(url, Job(folder, quiet=True), work or lives.work))


def test_work_is_done_once_where_nothing_happens(tmp_path: Path) -> None:
    assert run(lives := Lives(), tmp_path) == "done" and lives.calls == 1


def test_work_that_an_engines_end_broke_off_begins_anew(tmp_path: Path) -> None:
    assert run(lives := Lives(dies=2), tmp_path) == "done" and lives.calls == 3


def test_an_error_of_a_living_engine_is_believed(tmp_path: Path) -> None:
    lives = Lives()

    async def refused(answers: Answers, engine: Steady) -> None:
        lives.calls += 1
        await engine.need()
        raise InvalidRequest("no")

    with pytest.raises(InvalidRequest):
        run(lives, tmp_path, refused)
    assert lives.calls == 1


def test_what_failed_silently_is_not_believed_of_a_new_life(tmp_path: Path) -> None:
    lives = Lives()

    async def silent(answers: Answers, engine: Steady) -> int:
        lives.calls += 1
        lives.created += lives.calls == 1
        await engine.need()
        return lives.calls

    assert run(lives, tmp_path, silent) == 2


def test_an_engine_that_dies_of_the_work_is_told(tmp_path: Path) -> None:
    lives = Lives(dies=100)
    with pytest.raises(UpstreamError, match="broke"):
        run(lives, tmp_path)
    assert lives.calls == MOST_LIVES


def test_an_engine_that_is_not_up_yet_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "POLL_S", 0.01)
    lives, port = Lives(), free_port()

    async def scene() -> str:
        asking = asyncio.create_task(steadily(f"http://127.0.0.1:{port}", Job(tmp_path, quiet=True), lives.work))
        await asyncio.sleep(0.3)
        async with await asyncio.start_server(_listing, "127.0.0.1", port):
            return await asking

    assert asyncio.run(scene()) == "done"


async def _listing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 12\r\nconnection: close\r\n\r\n{"data": []}')
    await writer.drain()
    writer.close()


def test_patience_ends_and_so_does_a_job_that_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "PATIENCE_S", 0.1)
    monkeypatch.setattr(steady, "POLL_S", 0.01)
    job, lives, url = Job(tmp_path, quiet=True), Lives(), f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UpstreamError, match="has not answered"):
        asyncio.run(steadily(url, job, lives.work))
    job.stop_reason = "SIGTERM"
    with pytest.raises(Cancelled):
        asyncio.run(steadily(url, job, lives.work))
    assert lives.calls == 0
