"""Places at the engine: bounded, handed on in order, never lost."""

import asyncio
import gc
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from moatelier.errors import Overloaded
from serving.admission import Admission, Held


def run(scene: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(scene, 20)

    return asyncio.run(bounded())


async def turn() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_places_are_bounded_and_handed_on_in_order() -> None:
    async def scene() -> None:
        admission, came = Admission(2, 10, 10), []
        leave = [await admission.enter() for _ in range(2)]

        async def come(name: int) -> None:
            await admission.enter()
            came.append(name)

        waiting = [asyncio.create_task(come(name)) for name in range(3)]
        await turn()
        assert (admission.taken, admission.waiting, came) == (2, 3, [])
        leave[0]()
        await turn()
        assert (admission.taken, came) == (2, [0])
        leave[1]()
        await asyncio.gather(*waiting[:2])
        assert came == [0, 1]
        waiting[2].cancel()
        await turn()
        assert admission.waiting == 0
        admission.leave()
        admission.leave()
        assert admission.taken == 0

    run(scene())


def test_a_queue_that_is_full_refuses_at_once_and_says_when() -> None:
    async def scene() -> None:
        clock = [0.0]
        admission = Admission(1, 1, 10, clock=lambda: clock[0])
        for _ in range(60):  # one leaves every four seconds
            async with admission:
                clock[0] += 4
        await admission.enter()
        waits = asyncio.create_task(admission.enter())
        await turn()
        with pytest.raises(Overloaded) as refused:
            await admission.enter()
        assert 7 < refused.value.retry_after_s < 9
        admission.leave()
        await waits

    run(scene())


def test_a_wait_that_is_too_long_is_refused_and_costs_no_place() -> None:
    async def scene() -> None:
        admission = Admission(1, 5, 0.01)
        await admission.enter()
        with pytest.raises(Overloaded, match="No place"):
            await admission.enter()
        admission.leave()
        assert (admission.taken, admission.waiting) == (0, 0)
        async with admission:
            assert admission.taken == 1

    run(scene())


def test_a_place_that_comes_as_its_owner_is_cancelled_is_the_next_ones() -> None:
    async def scene() -> None:
        admission = Admission(1, 5, 10)
        await admission.enter()
        first, second = (asyncio.create_task(admission.enter()) for _ in range(2))
        await turn()
        admission.leave()  # the first one's, which has not run yet
        first.cancel()
        await second
        assert (admission.taken, admission.waiting) == (1, 0)

    run(scene())


async def pieces() -> AsyncIterator[bytes]:
    yield b"a"
    yield b"b"


@pytest.mark.parametrize("way", ["read", "broken off", "closed", "never begun", "failed"])
def test_a_stream_gives_its_place_back_however_it_ends(way: str) -> None:
    async def scene() -> None:
        admission = Admission(1, 0, 0)
        stream: Any = Held(pieces(), await admission.enter())  # type: ignore[arg-type]
        assert admission.taken == 1
        if way == "read":
            assert [piece async for piece in stream] == [b"a", b"b"]
        elif way == "broken off":
            async for _ in stream:
                break
            assert admission.taken == 1
            await stream.aclose()
        elif way == "closed":
            await stream.aclose()
        elif way == "failed":
            with pytest.raises(ValueError, match="no"):
                await stream.athrow(ValueError("no"))
        else:
            del stream
            gc.collect()
            await turn()
        assert admission.taken == 0

    run(scene())
