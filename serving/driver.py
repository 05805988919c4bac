"""The one thread that runs the engine. The event loop hands in requests and reads their answers.

Work on the engine that is no answer (loading an adapter) is done between two steps.
"""

import asyncio
import logging
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from opentelemetry import context

from moatelier.errors import Cancelled, MoatelierError, Overloaded
from serving import watching
from serving.engine import Delta, TextEngine
from serving.patience import patience_s
from serving.row import Row

T = TypeVar("T")
log = logging.getLogger("moatelier.engine")
REST_S = 300.0
"""After so many seconds without a request the engine lets go of computed prompts."""
Submit = Callable[[TextEngine], Sequence[Row]]


class Ticket(AsyncIterator[Delta]):
    """One request, held by the event loop: an async iterator over what its rows say."""

    def __init__(self, submit: Submit, eager: bool = True) -> None:
        self.submit, self.eager = submit, eager
        self.rows: Sequence[Row] = ()
        self.cancelled = False
        self.context = context.get_current()
        """Of the request's trace."""
        self.patience_s = patience_s()
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Delta | BaseException] = asyncio.Queue()

    def cancel(self) -> None:
        """The reader is gone: stop with the step that is running. Does nothing to a ticket that has ended."""
        self.cancelled = True

    async def __anext__(self) -> Delta:
        item = await self._items.get()
        if isinstance(item, BaseException):
            self._items.put_nowait(StopAsyncIteration())  # whoever asks again gets the end again
            raise item
        return item

    def say(self, items: Sequence[Delta | BaseException]) -> None:
        """Hand items to the reader, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._put, items)
        except RuntimeError:  # the event loop is closed: nobody reads any more
            self.cancelled = True

    def _put(self, items: Sequence[Delta | BaseException]) -> None:
        for item in items:
            self._items.put_nowait(item)


class Driver:
    """Runs an engine on a thread of its own.

    Args:
        engine: Gives the engine, at its first use and on the thread.
        leave: Called when the engine cannot be cleaned up after a failure; its supervisor starts another process.
    """

    def __init__(self, engine: Callable[[], TextEngine], leave: Callable[[], None] = lambda: os._exit(1)) -> None:
        self._engine, self._leave = engine, leave
        self._inbox: queue.SimpleQueue[Ticket | Callable[[], None]] = queue.SimpleQueue()
        self._tickets: list[Ticket] = []
        self._asked = False
        """Since the engine last rested."""
        threading.Thread(target=self._run, name="generation", daemon=True).start()

    @property
    def busy(self) -> int:
        """Requests in the making or waiting."""
        return len(self._tickets) + self._inbox.qsize()

    def submit(self, submit: Submit, eager: bool = True) -> Ticket:
        """Queue a request, which `submit` gives to the engine. Call this on the event loop.

        Args:
            submit: Called on the thread.
            eager: Hand over each token at once. Who reads the whole answer saves the event loop a call a step, for
                which the thread would have to wait.
        """
        ticket = Ticket(submit, eager)
        self._inbox.put(ticket)
        return ticket

    async def call(self, work: Callable[[TextEngine], T]) -> T:
        """Do something with the engine between two steps, and wait for its result."""
        loop, result = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def once() -> None:
            try:
                value, error = work(self._engine()), None
            except Exception as failure:  # belongs to the caller, not to the thread that serves everybody
                value, error = None, failure
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(_settle, result, value, error)

        self._inbox.put(once)
        done: T = await result
        return done

    def _run(self) -> None:
        try:
            while True:
                self._turn()
        except BaseException as error:  # nobody may wait for ever for a thread that is gone
            log.exception("the engine's thread cannot go on")
            for ticket in self._tickets:
                ticket.say([_known(error)])
            self._leave()

    def _turn(self) -> None:
        self._take_in(wait=not self._tickets)
        if not self._tickets:
            return
        engine = self._engine()
        self._drop_cancelled(engine)
        self._drop_impatient(engine)
        try:
            begun = time.monotonic()
            watching.step(begun, engine.step())
        except Exception as error:  # a step that fails fails everybody in it: whose fault it is cannot be known
            self._fail(engine, _known(error))
        self._deliver()

    def _take_in(self, wait: bool) -> None:
        while wait or not self._inbox.empty():
            item = self._next()
            wait = False
            if not isinstance(item, Ticket):
                item()
            elif item.cancelled:
                item.say([Cancelled("The request was cancelled.")])
            else:
                self._start(item)

    def _next(self) -> Ticket | Callable[[], None]:
        try:
            return self._inbox.get(timeout=REST_S if self._asked else None)
        except queue.Empty:
            self._engine().rest()
            self._asked = False
            return self._inbox.get()

    def _start(self, ticket: Ticket) -> None:
        self._tickets.append(ticket)
        try:
            ticket.rows = ticket.submit(self._engine())
            self._asked = True
        except Exception as error:
            self._end(ticket, [error])

    def _drop_cancelled(self, engine: TextEngine) -> None:
        for ticket in [ticket for ticket in self._tickets if ticket.cancelled]:
            for row in ticket.rows:
                engine.cancel(row)
            self._end(ticket, [Cancelled("The request was cancelled.")])

    def _drop_impatient(self, engine: TextEngine) -> None:
        """Refuse those whose turn has not come in time; whoever has begun is answered to the end."""
        now = time.monotonic()
        for ticket in [ticket for ticket in self._tickets if ticket.patience_s is not None]:
            waited = max((now - row.arrived for row in ticket.rows if row.began is None), default=0.0)
            if waited > (ticket.patience_s or 0.0) and all(row.began is None for row in ticket.rows):
                what = f"The engine had no time for the request within {ticket.patience_s:g} s."
                for row in ticket.rows:
                    engine.cancel(row)
                self._end(ticket, [Overloaded(what, remedy="Send it again later.")])

    def _deliver(self) -> None:
        for ticket in list(self._tickets):
            over = all(row.over for row in ticket.rows)
            error = next((row.error for row in ticket.rows if row.error), None)
            if not (ticket.eager or over or error):
                continue
            news = [row.news.popleft() for row in ticket.rows for _ in range(len(row.news))]
            if error:
                self._drop(ticket, [*news, error])
            elif over:
                self._end(ticket, [*news, StopAsyncIteration()])
            elif news:
                ticket.say(news)

    def _drop(self, ticket: Ticket, last: Sequence[Delta | BaseException]) -> None:
        for row in ticket.rows:
            self._engine().cancel(row)
        self._end(ticket, last)

    def _fail(self, engine: TextEngine, error: MoatelierError) -> None:
        for ticket in self._tickets:
            for row in ticket.rows:
                if not row.over:
                    engine.cancel(row)
                    row.error = error

    def _end(self, ticket: Ticket, last: Sequence[Delta | BaseException]) -> None:
        self._tickets.remove(ticket)
        ticket.say(last)
        watching.ended(ticket.rows, ticket.context, last[-1] if isinstance(last[-1], BaseException) else None)


def _known(error: BaseException) -> MoatelierError:
    return error if isinstance(error, MoatelierError) else MoatelierError(f"{type(error).__name__}: {error}")


def _settle(result: "asyncio.Future[Any]", value: object, error: Exception | None) -> None:
    if result.done():
        return
    if error:
        result.set_exception(error)
    else:
        result.set_result(value)
