"""So many requests at the engine at once, so many that wait for a place, and none of them for long.

    async with admission:
        ...             # one place is ours

A queue without end answers everybody too late. Whoever cannot be answered in time is told so at once, and when to come
back; those who were let in do not notice. First come, first served.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from moatelier.errors import Overloaded

LONGEST_S = 30.0
"""Nobody is told to come back later than this."""
WEIGHT = 0.1
"""Of the newest leave in the mean time between two."""


class Admission:
    """Use it on one event loop.

    Args:
        places: Requests that may be let in at once.
        queue: Requests that may wait.
        wait_s: Longest wait.
        waited: Hears how long each that was let in has waited, in seconds.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        places: int,
        queue: int,
        wait_s: float,
        waited: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places, self.queue, self.wait_s = places, queue, wait_s
        self.taken = 0
        """Places that are taken."""
        self._waited, self._clock = waited, clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._interval, self._left = 1.0, clock()

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    async def __aenter__(self) -> None:
        """As `enter`."""
        await self.enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    async def enter(self) -> Callable[[], None]:
        """Take a place; returns what gives it back.

        Raises:
            Overloaded: Too many wait already, or no place became free in time.
        """
        if self.taken < self.places and not self._waiting:
            self.taken += 1
            self._waited(0.0)
        elif len(self._waiting) >= self.queue:
            raise self._overloaded(f"{self.taken} requests are under way and {self.waiting} wait.")
        else:
            await self._place()
        return self.leave

    def leave(self) -> None:
        """Give a place back."""
        now = self._clock()
        self._interval += WEIGHT * (now - self._left - self._interval)
        self._left = now
        self._free()

    async def _place(self) -> None:
        begun, place = self._clock(), asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(self.wait_s):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():  # it came too late: it is the next one's
                self._free()
            else:
                with suppress(ValueError):  # passed over already
                    self._waiting.remove(place)
            if isinstance(error, TimeoutError):
                raise self._overloaded(f"No place became free within {self.wait_s:g} s.") from None
            raise
        self._waited(self._clock() - begun)

    def _free(self) -> None:
        """Hand a place to whoever waits longest."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():  # its owner may have been cancelled a moment ago
                place.set_result(None)
                return
        self.taken -= 1

    def _overloaded(self, why: str) -> Overloaded:
        after = min(LONGEST_S, max(1.0, (self.waiting + 1) * self._interval))
        remedy = f"Send it again in {after:.0f} s."
        return Overloaded(f"More is asked than can be answered: {why}", remedy=remedy, retry_after_s=after)


class Held(AsyncGenerator[bytes, None]):
    """A stream that holds a place until it ends, is closed, or is forgotten: who never began to read closes nothing.

    Args:
        stream: The stream.
        leave: Gives the place back; called once.
    """

    def __init__(self, stream: AsyncGenerator[bytes, None], leave: Callable[[], None]) -> None:
        self._stream, self._leave, self._loop = stream, leave, asyncio.get_running_loop()
        self._holds = True

    async def asend(self, value: None) -> bytes:
        """The next piece."""
        try:
            return await self._stream.asend(value)
        except BaseException:
            self._give_back()
            raise

    async def athrow(self, *error: Any) -> bytes:
        """Raise within the stream."""
        try:
            return await self._stream.athrow(*error)
        except BaseException:
            self._give_back()
            raise

    async def aclose(self) -> None:
        """Hang up."""
        try:
            await self._stream.aclose()
        finally:
            self._give_back()

    def _give_back(self) -> None:
        if self._holds:
            self._holds = False
            self._leave()

    def __del__(self) -> None:
        if self._holds and not self._loop.is_closed():  # whichever thread collects the garbage
            self._loop.call_soon_threadsafe(self._give_back)
