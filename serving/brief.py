"""A very short memory in front of the store, so that a busy model costs no database work per request."""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

from anyio import to_thread

K = TypeVar("K")
V = TypeVar("V")


class Brief(Generic[K, V]):
    """Values by key, loaded in a thread and kept for at most `seconds`; errors are never kept.

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
        self._forgotten = 0

    def forget(self) -> None:
        """Ask the store again for everything; a look-up that has begun before is not kept either."""
        self._forgotten += 1
        self._kept.clear()

    async def get(self, key: K) -> V:
        """The value of a key, from memory or from the store."""
        asked = self._clock()
        if (hit := self._kept.get(key)) is not None and asked < hit[0]:
            return hit[1]
        forgotten = self._forgotten
        value = await to_thread.run_sync(self._load, key)
        if forgotten != self._forgotten:
            return value
        self._kept.pop(key, None)  # to the end: the dictionary is ordered by age
        self._kept[key] = (asked + self._seconds, value)
        while len(self._kept) > self._limit:
            self._kept.pop(next(iter(self._kept)))
        return value
