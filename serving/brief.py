"""A very short memory in front of the store, so that a busy model costs no database work per request."""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from anyio import to_thread

K = TypeVar("K")
V = TypeVar("V")

AHEAD = 0.5
"""A value asked for after this share of its time is looked up again meanwhile: a busy one is never waited for."""


class Brief(Generic[K, V]):
    """Values by key, loaded in a thread, once for all who ask meanwhile, and kept for at most `seconds`.

    Errors are never kept.

    Args:
        load: The blocking look-up.
        seconds: How stale an answer may be, counted from before its look-up began.
        limit: How many values are kept.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        load: Callable[[K], V],
        *,
        seconds: float = 1.0,
        limit: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load, self._seconds, self._limit, self._clock = load, seconds, limit, clock
        self._kept: dict[K, tuple[float, V]] = {}
        self._asking: dict[K, tuple[float, asyncio.Task[V]]] = {}

    def forget(self) -> None:
        """Ask the store again for everything; a look-up that has begun before is not kept either."""
        self._kept.clear()
        self._asking.clear()

    async def get(self, key: K) -> V:
        """The value of a key, from memory or from the store."""
        asked = self._clock()
        if (hit := self._kept.get(key)) is not None and asked < hit[0] + self._seconds:
            if asked >= hit[0] + AHEAD * self._seconds:
                self._ask(key, asked)
            return hit[1]
        return await asyncio.shield(self._ask(key, asked))  # whoever asked first may leave; the others wait on

    def _ask(self, key: K, asked: float) -> asyncio.Task[V]:
        """The look-up that runs, unless its answer could already be stale, or a new one."""
        if (running := self._asking.get(key)) is not None and asked < running[0] + self._seconds:
            return running[1]
        task = asyncio.create_task(to_thread.run_sync(self._load, key))
        self._asking[key] = (asked, task)
        task.add_done_callback(lambda done: self._keep(key, asked, done))
        return task

    def _keep(self, key: K, asked: float, done: asyncio.Task[V]) -> None:
        failed = done.cancelled() or done.exception() is not None  # asked for here, since maybe nobody waits for it
        if (running := self._asking.get(key)) is None or running[1] is not done:
            return  # forgotten, or another one has been begun since
        del self._asking[key]
        if failed:
            return
        self._kept.pop(key, None)  # to the end: the dictionary is ordered by age
        self._kept[key] = (asked, done.result())
        while len(self._kept) > self._limit:
            self._kept.pop(next(iter(self._kept)))
