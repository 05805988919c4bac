"""The optional planner endpoint may help; one that lies, hangs or talks junk changes nothing."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from graphs.planner_endpoint import propose
from moatelier.contracts import DataProfile
from moatelier.settings import settings
from modalities.text import data
from tests import fakes

Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]
REQUEST = ["Learn to sort the messages, call it desk, at least 80% accuracy"]


class Endpoint:
    """A local server that answers as a test says, and remembers what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers: list[str] = []
        self.behave: Answer = self._say
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                endpoint.asked.append(body)
                endpoint.behave(self, body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MOATELIER_PLANNER_URL", f"http://127.0.0.1:{self.server.server_port}/v1")
        monkeypatch.setenv("MOATELIER_PLANNER_TIMEOUT_S", "1.5")
        settings.cache_clear()

    def _say(self, handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        text = self.answers.pop(0)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        send(handler, json.dumps(body).encode())


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def endpoint(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    made = Endpoint(monkeypatch)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def profile(tmp_path: Path) -> DataProfile:
    return data.profile(fakes.support_csv(tmp_path / "support.csv"), "support.csv", "file-1")


def test_without_an_endpoint_nothing_is_asked(home: Path, profile: DataProfile) -> None:
    assert propose(REQUEST, profile) is None


def test_a_valid_proposal_is_taken_and_names_what_was_asked(endpoint: Endpoint, profile: DataProfile) -> None:
    endpoint.answers = ["{}"]
    assert propose(REQUEST, profile) == {}
    told = endpoint.asked[0]["messages"]
    assert "schema" in told[0]["content"] and "support.csv" in told[1]["content"]
    assert "where is my parcel" not in json.dumps(endpoint.asked), "rows are not sent to an endpoint"


def test_junk_gets_one_repair_turn_and_is_then_ignored(endpoint: Endpoint, profile: DataProfile) -> None:
    endpoint.answers = ["Sure! Here is your plan:", '{"rm": "-rf"}', "{}"]
    assert propose(REQUEST, profile) is None
    assert len(endpoint.asked) == 2 and "JSON" in endpoint.asked[1]["messages"][-1]["content"]


def test_a_repaired_proposal_is_taken(endpoint: Endpoint, profile: DataProfile) -> None:
    endpoint.answers = ["junk", "{}"]
    assert propose(REQUEST, profile) == {}


def test_an_endpoint_that_hangs_or_trickles_is_left_at_the_deadline(endpoint: Endpoint, profile: DataProfile) -> None:
    def trickle(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b" ")
            time.sleep(0.2)

    endpoint.behave = trickle
    start = time.monotonic()
    assert propose(REQUEST, profile) is None
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(("status", "body"), [(500, b"{}"), (200, b"<html>"), (200, b'{"choices": []}'), (404, b"")])
def test_a_broken_endpoint_is_ignored(endpoint: Endpoint, profile: DataProfile, status: int, body: bytes) -> None:
    endpoint.behave = lambda handler, _: send(handler, body, status)
    assert propose(REQUEST, profile) is None


def test_an_endpoint_that_is_not_there_is_ignored(
    home: Path, profile: DataProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOATELIER_PLANNER_URL", "http://127.0.0.1:9/v1")
    settings.cache_clear()
    assert propose(REQUEST, profile) is None
