"""The client against servers that answer well, badly, slowly or not at all."""

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from moatelier.errors import MoatelierError, ModelUnavailable, NotFound, UpstreamError
from serving.upstream import Upstream

KEY = "sk-not-for-logs"


@contextmanager
def answering(status: int, body: bytes, *, cut: bool = False, delay_s: float = 0.0) -> Iterator[tuple[str, list[Any]]]:
    """A server that gives one answer to everything, and what it was asked."""
    asked: list[Any] = []
    waiting = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            asked.append((self.path, dict(self.headers), json.loads(self.rfile.read(length) or b"null")))
            waiting.wait(delay_s)
            self.send_response(status)
            self.send_header("content-length", str(len(body) + (10 if cut else 0)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        waiting.set()
        server.shutdown()
        server.server_close()


def ask(url: str, call: Callable[[Upstream], Awaitable[Any]], *, timeout_s: float = 5.0) -> Any:
    async def scene() -> Any:
        async with Upstream(url, KEY, timeout_s) as upstream:
            return await call(upstream)

    return asyncio.run(scene())


async def drain(upstream: Upstream) -> bytes:
    return b"".join([part async for part in upstream.stream({"model": "m"})])


CALLS: dict[str, Callable[[Upstream], Awaitable[Any]]] = {
    "chat": lambda upstream: upstream.chat({"model": "m", "messages": []}),
    "stream": drain,
    "models": lambda upstream: upstream.models(),
    "health": lambda upstream: upstream.health(),
    "load": lambda upstream: upstream.load_adapter("a", Path("/a")),
    "unload": lambda upstream: upstream.unload_adapter("a"),
}


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_a_base_url_may_end_in_v1_or_not(suffix: str) -> None:
    with answering(200, b'{"data": [{"id": "m"}]}') as (url, asked):
        assert ask(url + suffix, CALLS["models"]) == [{"id": "m"}]
    assert asked[0][0] == "/v1/models"
    assert asked[0][1]["authorization"] == f"Bearer {KEY}"


def test_chat_asks_for_a_whole_answer_and_stream_for_a_stream() -> None:
    with answering(200, b'{"id": "x"}') as (url, asked):
        assert ask(url, lambda upstream: upstream.chat({"model": "m", "stream": True})) == {"id": "x"}
        assert ask(url, drain) == b'{"id": "x"}'
    assert [body["stream"] for _, _, body in asked] == [False, True]


@pytest.mark.parametrize("call", CALLS)
def test_an_upstream_that_is_not_there(call: str) -> None:
    with answering(200, b"{}") as (url, _):
        pass
    with pytest.raises(UpstreamError, match="cannot be reached") as failed:
        ask(url, CALLS[call])
    assert failed.value.where == url


@pytest.mark.parametrize("call", ["chat", "stream", "health"])
def test_an_upstream_that_hangs(call: str) -> None:
    with answering(200, b"{}", delay_s=5) as (url, _), pytest.raises(UpstreamError, match="too slow"):
        ask(url, CALLS[call], timeout_s=0.2)


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'"text"', b"\xff"])
def test_an_upstream_that_answers_junk(body: bytes) -> None:
    with answering(200, body) as (url, _), pytest.raises(UpstreamError, match="not"):
        ask(url, CALLS["chat"])


def test_a_list_of_models_that_is_none() -> None:
    with answering(200, b'{"data": 1}') as (url, _), pytest.raises(UpstreamError, match="list of models"):
        ask(url, CALLS["models"])


@pytest.mark.parametrize("call", ["chat", "stream"])
def test_a_connection_that_breaks_in_the_middle(call: str) -> None:
    with answering(200, b'data: {"id"', cut=True) as (url, _), pytest.raises(UpstreamError, match="cannot be reached"):
        ask(url, CALLS[call])


@pytest.mark.parametrize(
    ("code", "kind"),
    [("model_unavailable", ModelUnavailable), ("not_found", NotFound), ("insufficient_quota", UpstreamError)],
)
@pytest.mark.parametrize("call", CALLS)
def test_errors_keep_the_upstreams_words_and_our_codes(call: str, code: str, kind: type[MoatelierError]) -> None:
    error = {"error": {"message": "Pull it first.", "type": "server_error", "param": "model", "code": code}}
    with answering(503, json.dumps(error).encode()) as (url, _), pytest.raises(kind, match="Pull it first") as failed:
        ask(url, CALLS[call])
    assert type(failed.value) is kind


@pytest.mark.parametrize("body", [b"Bad gateway", b'{"error": "text"}', b'{"detail": []}', b"[]", b""])
def test_errors_that_are_no_envelope(body: bytes) -> None:
    with answering(502, body) as (url, _), pytest.raises(UpstreamError, match="502"):
        ask(url, CALLS["chat"])


def test_the_key_is_in_no_error_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with answering(401, b'{"error": {"message": "no"}}') as (url, _), pytest.raises(UpstreamError) as failed:
        ask(url, CALLS["chat"])
    assert KEY not in str(failed.value)
    assert KEY not in caplog.text


def test_a_proxy_for_the_outside_is_not_asked_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with answering(200, b"OK") as (url, _):
        assert ask(url, CALLS["health"]) == {}


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": []}',
        b'{"data": [{"index": 0, "embedding": "***"}]}',
        b'{"data": [{"index": 1, "embedding": [0.5]}]}',
        b'{"data": [{"embedding": [0.5]}]}',
        b'{"data": {"index": 0}}',
        b"{}",
    ],
)
def test_an_answer_without_the_embeddings_is_an_error(body: bytes) -> None:
    with answering(200, body) as (url, _), pytest.raises(UpstreamError, match="no such embeddings"):
        ask(url, lambda upstream: upstream.embeddings(["a"], "m"))


def test_embeddings_are_put_in_order_whatever_their_form() -> None:
    body = b'{"data": [{"index": 1, "embedding": [0.5, 1]}, {"index": 0, "embedding": "AACAPwAAAEA="}]}'
    with answering(200, body) as (url, asked):
        assert ask(url, lambda upstream: upstream.embeddings(["a", "b"], "m")) == [[1.0, 2.0], [0.5, 1.0]]
    path, _, sent = asked[0]
    assert (path, sent) == ("/v1/embeddings", {"model": "m", "input": ["a", "b"], "encoding_format": "base64"})
