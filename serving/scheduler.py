"""One thread that makes all answers, a step of each in turn, so that a short answer never waits for a long one.

The event loop hands in generators and reads what they yield. Work on the model that is no answer (loading an adapter)
goes through the same queue, hence never runs in the middle of a step.
"""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Generic, TypeVar

from moatelier.errors import Cancelled

T = TypeVar("T")
MAX_ACTIVE = 8
"""Answers in the making at one time; the others wait in the order in which they came."""


class Ticket(AsyncIterator[T], Generic[T]):
    """One place in the queue, held by the event loop: an async iterator over what the generator yields."""

    def __init__(self, start: Callable[[], Generator[T, None, None]]) -> None:
        self._start = start
        self._running: Generator[T, None, None] | None = None
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._cancelled = False

    def cancel(self) -> None:
        """The reader is gone: stop with the step that is running. Does nothing to a ticket that has ended."""
        self._cancelled = True

    async def __anext__(self) -> T:
        kind, value = await self._items.get()
        if kind == "item":
            item: T = value
            return item
        self._say("end", None)  # whoever asks again gets the end again
        if kind == "error":
            raise value
        raise StopAsyncIteration

    def advance(self) -> bool:
        """Run one step on the calling thread; False when there is no further one."""
        try:
            if self._cancelled:
                raise Cancelled("The request was cancelled.")
            self._running = self._running or self._start()
            self._say("item", next(self._running))
            return True
        except StopIteration:
            self._say("end", None)
        except Exception as error:  # belongs to the reader, not to the thread that serves everybody
            self._say("error", error)
        if self._running:
            self._running.close()
        return False

    def _say(self, kind: str, value: object) -> None:
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, (kind, value))
        except RuntimeError:  # the event loop is closed: nobody reads any more
            self._cancelled = True


class Scheduler:
    """Runs tickets on a thread of its own, at most `MAX_ACTIVE` at a time, one step each in turn."""

    def __init__(self, max_active: int = MAX_ACTIVE) -> None:
        self._waiting: queue.SimpleQueue[Ticket[Any]] = queue.SimpleQueue()
        self._active: deque[Ticket[Any]] = deque()
        self._max_active = max_active
        threading.Thread(target=self._run, name="generation", daemon=True).start()

    @property
    def busy(self) -> int:
        """Requests in the making or waiting."""
        return len(self._active) + self._waiting.qsize()

    def submit(self, start: Callable[[], Generator[T, None, None]]) -> Ticket[T]:
        """Queue a generator; it is made and run on the scheduler's thread. Call this on the event loop."""
        ticket = Ticket(start)
        self._waiting.put(ticket)
        return ticket

    async def call(self, work: Callable[[], T]) -> T:
        """Run a function on the scheduler's thread, between two steps, and wait for its result."""

        def once() -> Generator[T, None, None]:
            yield work()

        return await anext(self.submit(once))

    def _run(self) -> None:
        while True:
            while len(self._active) < self._max_active and not (self._active and self._waiting.empty()):
                self._active.append(self._waiting.get())
            if self._active[0].advance():
                self._active.rotate(-1)
            else:
                self._active.popleft()
