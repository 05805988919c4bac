"""Requests that are done together: who is with whom, whose fault is whose, and who leaves the queue."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.together import Together


class Worker:
    """Doubles numbers once it is let go; refuses those below zero."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started, self.go = threading.Event(), threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.started.set()
        assert self.go.wait(10)
        if any(item < 0 for item in items):
            raise ValueError(f"{min(items)} is below zero")
        return [2 * item for item in items]


async def until_started(worker: Worker) -> None:
    await asyncio.to_thread(worker.started.wait, 10)


def test_what_comes_while_the_worker_is_busy_is_the_next_batch() -> None:
    worker = Worker()

    async def scene() -> list[int]:
        together = Together(worker, ThreadPoolExecutor(1), most=3)
        first = asyncio.create_task(together.ask(1))
        await until_started(worker)
        rest = [asyncio.create_task(together.ask(number)) for number in (2, 3, 4, 5)]
        await asyncio.sleep(0)
        worker.go.set()
        return list(await asyncio.gather(first, *rest))

    assert asyncio.run(scene()) == [2, 4, 6, 8, 10]
    assert worker.batches == [[1], [2, 3, 4], [5]]


def test_nobody_fails_for_a_neighbour() -> None:
    worker = Worker()

    async def scene() -> list[object]:
        together = Together(worker, ThreadPoolExecutor(1), most=8)
        first = asyncio.create_task(together.ask(0))
        await until_started(worker)
        rest = [asyncio.create_task(together.ask(number)) for number in (1, -1, 2)]
        await asyncio.sleep(0)
        worker.go.set()
        return list(await asyncio.gather(first, *rest, return_exceptions=True))

    found = asyncio.run(scene())
    assert [found[0], found[1], found[3]] == [0, 2, 4]
    assert isinstance(found[2], ValueError)


def test_who_hangs_up_is_not_worked_for() -> None:
    worker = Worker()

    async def scene() -> int:
        together = Together(worker, ThreadPoolExecutor(1), most=8)
        first = asyncio.create_task(together.ask(1))
        await until_started(worker)
        gone, stays = asyncio.create_task(together.ask(2)), asyncio.create_task(together.ask(3))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        worker.go.set()
        await first
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await stays

    assert asyncio.run(scene()) == 6
    assert worker.batches == [[1], [3]]
