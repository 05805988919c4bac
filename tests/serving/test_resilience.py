"""Breaker and retries by themselves, and the client's behaviour with both against servers that fail in every way."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatelier.contracts import now
from moatelier.errors import InvalidRequest, ModelUnavailable, UpstreamError, UpstreamRefused
from serving.breaker import Breaker
from serving.retries import Again, Retries, after_s
from serving.upstream import Upstream

QUICK = Retries(base_s=0.001)
Answer = tuple[int, dict[str, str], bytes]
OK: Answer = (200, {}, b'{"id": "x"}')


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def fail(breaker: Breaker, kind: type[BaseException] = UpstreamError) -> None:
    with pytest.raises(kind), breaker.guard():
        raise kind("no")


def test_a_breaker_opens_after_failures_in_a_row_and_closes_after_one_success() -> None:
    breaker = Breaker("big", failures=3, open_s=10, clock=(clock := Clock()))
    for _ in range(2):
        fail(breaker)
    with breaker.guard():
        pass
    for _ in range(3):
        assert not breaker.open
        fail(breaker)
    with pytest.raises(UpstreamError, match="3 times in a row.*big.*10.0 s"), breaker.guard():
        raise AssertionError("it must not be asked")
    clock.now = 10
    with breaker.guard():
        with pytest.raises(UpstreamError), breaker.guard():
            raise AssertionError("one tries, no more")
    assert breaker.fresh
    fail(breaker)
    assert not breaker.open


def test_a_refusal_is_no_failure_unless_it_is_said_to_be() -> None:
    breaker = Breaker("big", failures=1)
    fail(breaker, InvalidRequest)
    assert breaker.fresh
    with pytest.raises(InvalidRequest), breaker.guard(counts=lambda error: True):
        raise InvalidRequest("no")
    assert breaker.open


def test_a_trial_that_fails_keeps_it_open_and_one_that_is_cancelled_does_not_count() -> None:
    breaker = Breaker("big", failures=1, open_s=10, clock=(clock := Clock()))
    fail(breaker)
    clock.now = 10
    fail(breaker)
    clock.now = 19
    assert breaker.open
    clock.now = 20
    fail(breaker, asyncio.CancelledError)
    assert not breaker.open
    fail(Breaker("new", failures=1), asyncio.CancelledError)


@given(st.lists(st.sampled_from(["good", "bad", "gone", "later"]), max_size=60), st.integers(1, 4))
def test_a_breaker_refuses_exactly_what_it_should(steps: list[str], limit: int) -> None:
    breaker = Breaker("x", failures=limit, open_s=5, clock=(clock := Clock()))
    row, until = 0, 0.0
    for step in steps:
        if step == "later":
            clock.now += 3
            continue
        assert breaker.open == (row >= limit and clock.now < until)
        if breaker.open:
            continue
        if step == "good":
            with breaker.guard():
                row = 0
        else:
            fail(breaker, UpstreamError if step == "bad" else asyncio.CancelledError)
            row += step == "bad"
            until = clock.now + 5 if step == "bad" else until


@given(st.integers(1, 9), st.integers(0, 2**32), st.one_of(st.none(), st.floats(0, 100)))
def test_waits_are_random_bounded_and_never_shorter_than_asked(attempt: int, seed: int, asked: float | None) -> None:
    wait = Retries(base_s=0.1, longest_s=5, random=Random(seed)).wait_s(attempt, asked)
    ours = min(5, 0.1 * 2 ** (attempt - 1))
    if asked is None:
        assert wait is not None and 0 <= wait <= ours
    else:
        assert (wait is None) == (asked > 5) and (wait is None or asked <= wait <= asked + ours)


def test_it_is_asked_so_often_and_the_last_error_is_told() -> None:
    asked: list[int] = []

    async def call() -> str:
        asked.append(1)
        raise Again(UpstreamError(f"no {len(asked)}"))

    with pytest.raises(UpstreamError, match="no 3"):
        asyncio.run(QUICK.run(call))
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (429, {"retry-after": "2"}, 2.0),
        (503, {"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        (503, {"retry-after": "soon"}, None),
        (503, {}, None),
        (500, {"retry-after": "2"}, None),
        (400, {"retry-after": "2"}, None),
    ],
)
def test_when_a_server_asks_to_be_asked_again(status: int, headers: dict[str, str], wait: float | None) -> None:
    found = after_s(httpx.Response(status, headers=headers))
    assert found == (None if wait is None else wait)


@pytest.mark.parametrize(("ahead_s", "wait"), [(30, 29.5), (-30, 0.0)])
def test_when_a_server_names_a_moment(ahead_s: float, wait: float) -> None:
    moment = format_datetime(now() + timedelta(seconds=ahead_s), usegmt=True)
    assert after_s(httpx.Response(503, headers={"retry-after": moment})) == pytest.approx(wait, abs=2)


@contextmanager
def answering(answer: Callable[[int], Answer | None], delay_s: float = 0.0) -> Iterator[tuple[str, list[float]]]:
    """A server that gives its n-th request the n-th answer; None closes the connection. Yields its times of asking."""
    asked: list[float] = []
    busy, most, lock = [0], [0], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            with lock:
                asked.append(time.monotonic())
                number = len(asked)
                busy[0] += 1
                most[0] = max(most[0], busy[0])
            time.sleep(delay_s)
            with lock:
                busy[0] -= 1
            given = answer(number)
            if given is None:
                self.close_connection = True
                return
            status, headers, body = given
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        answering.most = most[0]  # type: ignore[attr-defined]


def play(url: str, scene: Callable[[Upstream], Any], **options: Any) -> Any:
    async def run() -> Any:
        async with Upstream(url, timeout_s=2, retries=QUICK, **options) as upstream:
            return await scene(upstream)

    return asyncio.run(run())


async def drain(upstream: Upstream) -> bytes:
    return b"".join([part async for part in upstream.stream({"model": "m"})])


ASKING: dict[str, Callable[[Upstream], Any]] = {"chat": lambda u: u.chat({"model": "m"}), "stream": drain}


@pytest.mark.parametrize("call", ASKING)
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_says_when_is_asked_again(call: str, status: int) -> None:
    busy: Answer = (status, {"retry-after-ms": "30"}, b"{}")
    with answering(lambda number: busy if number < 3 else OK) as (url, asked):
        play(url, ASKING[call])
    assert len(asked) == 3 and min(asked[1] - asked[0], asked[2] - asked[1]) >= 0.03


@pytest.mark.parametrize("call", ASKING)
@pytest.mark.parametrize(
    "answer",
    [
        (500, {}, b"{}"),
        (502, {"retry-after-ms": "1"}, b"{}"),
        (503, {}, b"{}"),
        (503, {"retry-after": "900"}, b"{}"),
        (400, {}, b"{}"),
        None,
    ],
)
def test_a_request_that_may_have_been_carried_out_is_never_sent_twice(call: str, answer: Answer | None) -> None:
    with answering(lambda number: answer) as (url, asked), pytest.raises(UpstreamError):
        play(url, ASKING[call])
    assert len(asked) == 1


def test_a_question_that_changes_nothing_is_asked_again() -> None:
    with answering(lambda number: None if number < 3 else (200, {}, b'{"data": []}')) as (url, asked):
        assert play(url, lambda upstream: upstream.models()) == []
    assert len(asked) == 3


def test_a_server_that_comes_up_meanwhile_is_found() -> None:
    """As when the embedded engine is started again: nothing has been sent, so the request waits for it."""
    with answering(lambda number: OK) as (url, _):
        pass
    port = int(url.rsplit(":", 1)[1])

    async def scene() -> Any:
        patient = Retries(attempts=50, base_s=0.05, longest_s=0.05)
        async with Upstream(url, retries=patient, open_s=0.0) as upstream:
            asking = asyncio.create_task(upstream.chat({"model": "m"}))
            await asyncio.sleep(0.1)
            server = await asyncio.start_server(_say_ok, "127.0.0.1", port)
            async with server:
                return await asking

    assert asyncio.run(scene()) == {"id": "x"}


async def _say_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 11\r\nconnection: close\r\n\r\n{"id": "x"}')
    await writer.drain()
    writer.close()


def test_an_upstream_that_cannot_be_reached_is_left_alone_and_tried_again() -> None:
    with answering(lambda number: OK) as (url, _):
        pass
    port = int(url.rsplit(":", 1)[1])

    async def scene(upstream: Upstream) -> None:
        for _ in range(2):  # of three attempts each
            with pytest.raises(UpstreamError):
                await upstream.chat({"model": "m"})
        for call in (upstream.chat({"model": "m"}), drain(upstream)):
            with pytest.raises(UpstreamError, match="5 times in a row"):
                await call
        async with await asyncio.start_server(_say_ok, "127.0.0.1", port):
            with pytest.raises(UpstreamError, match="5 times in a row"):
                await upstream.chat({"model": "m"})
            await asyncio.sleep(0.25)
            assert await upstream.chat({"model": "m"}) == {"id": "x"}
        assert upstream.breaker.fresh

    play(url, scene, open_s=0.2)


@pytest.mark.parametrize(
    "answer",
    [
        (500, {}, b"{}"),
        (400, {}, b"{}"),
        (404, {}, b"{}"),
        (429, {"retry-after": "900"}, b"{}"),
        (503, {}, b'{"error": {"message": "Pull it.", "code": "model_unavailable"}}'),
        None,
    ],
)
def test_an_upstream_that_answers_badly_is_not_silenced_for_its_other_models(answer: Answer | None) -> None:
    async def scene(upstream: Upstream) -> None:
        for _ in range(8):
            with pytest.raises((UpstreamError, ModelUnavailable)):
                await upstream.chat({"model": "m"})
        assert upstream.breaker.fresh

    with answering(lambda number: answer) as (url, asked):
        play(url, scene)
    assert len(asked) == 8


@pytest.mark.parametrize("call", ASKING)
def test_what_is_the_requests_fault_is_told_apart(call: str) -> None:
    with answering(lambda number: (400, {}, b'{"error": {"message": "Too long."}}')) as (url, _):
        with pytest.raises(UpstreamRefused, match="Too long") as caught:
            play(url, ASKING[call])
    assert caught.value.status == 400


@pytest.mark.parametrize("call", ASKING)
def test_no_more_are_under_way_at_once_than_allowed(call: str) -> None:
    async def scene(upstream: Upstream) -> None:
        await asyncio.gather(*(ASKING[call](upstream) for _ in range(9)))

    with answering(lambda number: OK, delay_s=0.02) as (url, asked):
        play(url, scene, concurrency=3)
    assert len(asked) == 9 and answering.most == 3  # type: ignore[attr-defined]


def test_whoever_is_cancelled_gives_its_turn_back() -> None:
    async def scene(upstream: Upstream) -> Any:
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(upstream.chat({"model": "m"}), 0.05)
        return await upstream.chat({"model": "m"})

    with answering(lambda number: OK, delay_s=0.2) as (url, _):
        assert play(url, scene, concurrency=1) == {"id": "x"}
