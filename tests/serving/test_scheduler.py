import asyncio
import threading
import time
from collections.abc import Generator
from contextlib import suppress

import pytest

from moatelier.errors import Cancelled, NotFound
from serving.scheduler import Scheduler, Ticket


def counting(name: str, steps: int, log: list[str]) -> Generator[int, None, None]:
    try:
        for step in range(steps):
            log.append(f"{name}{step}")
            yield step
    finally:
        log.append(f"{name}.")


async def read(ticket: Ticket[int]) -> list[int]:
    return [item async for item in ticket]


async def gate(scheduler: Scheduler) -> threading.Event:
    """Keep the scheduler's thread waiting until the event is set, so that what follows is queued together."""
    opened = threading.Event()

    def wait() -> Generator[None, None, None]:
        opened.wait(10)
        yield None

    scheduler.submit(wait)
    await asyncio.sleep(0.02)
    return opened


def test_answers_take_turns_so_a_short_one_overtakes_a_long_one() -> None:
    async def scene() -> list[str]:
        scheduler, log = Scheduler(), []
        opened = await gate(scheduler)
        tickets = [scheduler.submit(lambda n=n, k=k: counting(n, k, log)) for n, k in (("a", 4), ("b", 2))]
        opened.set()
        assert await asyncio.gather(*map(read, tickets)) == [[0, 1, 2, 3], [0, 1]]
        return log

    assert asyncio.run(scene()) == ["a0", "b0", "a1", "b1", "a2", "b.", "a3", "a."]


def test_those_beyond_the_limit_wait_in_their_order() -> None:
    async def scene() -> list[str]:
        scheduler, log = Scheduler(max_active=1), []
        opened = await gate(scheduler)
        tickets = [scheduler.submit(lambda n=n: counting(n, 2, log)) for n in "abc"]
        assert scheduler.busy == 4
        opened.set()
        await asyncio.gather(*map(read, tickets))
        return log

    assert asyncio.run(scene()) == ["a0", "a1", "a.", "b0", "b1", "b.", "c0", "c1", "c."]


def test_an_error_reaches_its_reader_and_nobody_else() -> None:
    async def scene() -> None:
        scheduler, log = Scheduler(), []

        def broken() -> Generator[int, None, None]:
            yield 1
            raise NotFound("gone")

        bad, good = scheduler.submit(broken), scheduler.submit(lambda: counting("a", 3, log))
        assert await anext(bad) == 1
        with pytest.raises(NotFound):
            await anext(bad)
        with pytest.raises(StopAsyncIteration):
            await anext(bad)
        assert await read(good) == [0, 1, 2]
        with pytest.raises(ZeroDivisionError):
            await scheduler.call(lambda: 1 // 0)
        assert await scheduler.call(lambda: 5) == 5

    asyncio.run(scene())


def test_cancelling_closes_the_generator_within_a_step() -> None:
    async def scene() -> list[str]:
        scheduler, log = Scheduler(), []

        def endless() -> Generator[int, None, None]:
            try:
                while True:
                    time.sleep(0.001)
                    yield 0
            finally:
                log.append("closed")

        ticket = scheduler.submit(endless)
        await anext(ticket)
        ticket.cancel()
        with suppress(Cancelled):
            async for _ in ticket:
                pass
        assert scheduler.busy == 0
        return log

    assert asyncio.run(scene()) == ["closed"]


def test_one_that_was_cancelled_while_it_waited_never_starts() -> None:
    async def scene() -> list[str]:
        scheduler, log = Scheduler(max_active=1), []
        opened = await gate(scheduler)
        ticket = scheduler.submit(lambda: counting("a", 2, log))
        ticket.cancel()
        opened.set()
        with pytest.raises(Cancelled):
            await anext(ticket)
        return log

    assert asyncio.run(scene()) == []


def test_a_reader_whose_loop_is_gone_stops_its_answer() -> None:
    scheduler, closed = Scheduler(), threading.Event()

    def endless() -> Generator[int, None, None]:
        try:
            while True:
                time.sleep(0.001)
                yield 0
        finally:
            closed.set()

    async def leave() -> None:
        await anext(scheduler.submit(endless))

    asyncio.run(leave())
    assert closed.wait(5)
