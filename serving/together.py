"""Requests that wait for one worker and are then done together: what comes while it is at work is the next batch."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Together(Generic[T, R]):
    """Batches requests by nothing but how busy the worker is: nobody waits for company. Use it on one event loop.

    Args:
        work: Does several at once, on the thread; gives their results in order.
        thread: Does one thing after another.
        most: So many at once.
    """

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R]], thread: ThreadPoolExecutor, most: int) -> None:
        self._work, self._thread, self._most = work, thread, most
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._running: asyncio.Task[None] | None = None

    async def ask(self, item: T) -> R:
        """One request's result; raises what `work` raises for it alone. A caller that is cancelled leaves the queue."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [pair for pair in self._waiting if not pair[1].done()]
            batch, self._waiting = batch[: self._most], batch[self._most :]
            if not batch:
                return
            found = await loop.run_in_executor(self._thread, self._results, [item for item, _ in batch])
            for (_, future), result in zip(batch, found, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _results(self, items: Sequence[T]) -> list[R | Exception]:
        try:
            return list(self._work(items))
        except Exception as error:
            if len(items) == 1:
                return [error]
        # Whose fault it was cannot be seen from outside, and nobody shall fail for a neighbour.
        return [result for item in items for result in self._results([item])]
