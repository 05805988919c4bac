"""The small parts, without a server."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from api.bodies import passed_on
from api.follow import Look, cursor, follow
from api.pages import page
from api.routes.openai.chat import _relabelled
from moatelier.contracts import Event
from moatelier.errors import InvalidRequest
from serving.brief import Brief
from serving.targets import Target


def test_a_brief_memory_is_never_staler_than_it_says() -> None:
    loads: list[str] = []
    now = [0.0]

    def load(key: str) -> str:
        loads.append(key)
        now[0] += 0.4  # a look-up takes time, and counts from when it began
        return f"{key}{len(loads)}"

    async def play() -> None:
        memory = Brief(load, seconds=1.0, limit=2, clock=lambda: now[0])
        assert await memory.get("a") == "a1"
        now[0] = 0.99
        assert await memory.get("a") == "a1"
        now[0] = 1.0
        assert await memory.get("a") == "a2"
        for key in "bcd":
            await memory.get(key)
        assert len(memory._kept) == 2
        assert await memory.get("a") == "a6"

    asyncio.run(play())


def test_a_brief_memory_keeps_no_errors() -> None:
    outcomes = iter([KeyError("x"), "fine"])

    def load(_: str) -> str:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def play() -> None:
        memory = Brief(load)
        with pytest.raises(KeyError):
            await memory.get("a")
        assert await memory.get("a") == "fine"

    asyncio.run(play())


def test_following_replays_then_waits_then_ends() -> None:
    log = [Event(project="p", stream="s", job="j", kind="k", step=n, body={}, id=n) for n in range(1, 8)]
    ends = iter([3, 3, 5, 7])

    def look(after: int) -> Look:
        end = next(ends)
        return Look(log[after:end], ended=end == 7)

    async def play() -> list[int | None]:
        return [event.id async for event in follow(look, 1)]

    assert asyncio.run(play()) == [2, 3, 4, 5, 6, 7]


def test_a_cursor_is_an_id_of_the_stream() -> None:
    assert cursor(None, 4) == 4
    assert cursor("9", 4) == 9
    assert cursor("1", 4) == 4
    for wrong in ("x", "-1", "٣", "9" * 30):
        with pytest.raises(InvalidRequest):
            cursor(wrong, 0)


def test_pages_end() -> None:
    rows = [{"id": str(n)} for n in range(3)]
    assert page(rows, after="0", limit=1) == {
        "object": "list",
        "data": [{"id": "1"}],
        "first_id": "1",
        "last_id": "1",
        "has_more": True,
    }
    assert page(rows, after="2", limit=1)["data"] == []


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_cut_anywhere_are_put_together(size: int) -> None:
    target = Target("asked", "public", "served", None, None, "base")
    raw = (
        b'data: {"id": "c1", "model": "served", "choices": []}\n\n: ping\r\n\r\ndata: {"id": "c1"}\r\n\r\ndata: [DONE]'
    )
    noted: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(raw), size):
            yield raw[start : start + size]

    async def play() -> list[bytes]:
        return [event async for event in passed_on(chunks(), _relabelled(target, noted.append))]

    *events, done = asyncio.run(play())
    assert done == b"data: [DONE]\n\n"
    assert [json.loads(event[6:])["model"] for event in events] == ["public", "public"]
    assert noted == ["c1", "c1"]
