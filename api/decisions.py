"""Route decisions go to the event log behind the requests: a request never waits for the database."""

import asyncio
import logging

from anyio import to_thread

from api import metrics
from api.trace import tell
from moatelier.contracts import Event, RouteDecision
from store import events
from store.feedback import ROUTE

STREAM = "inference"
"""The stream of events that belong to no conversation."""
BATCH_S = 0.25
WAITING = 20_000
"""Decisions that may wait; beyond that (the store has been down for long) new ones are dropped and counted."""
log = logging.getLogger("moatelier.api")


class DecisionLog:
    """A bounded list and the task that empties it in batches."""

    def __init__(self) -> None:
        self._waiting: list[Event] = []
        self._news = asyncio.Event()
        self._dropped = 0
        self._writing = asyncio.Lock()

    def note(self, project: str, decision: RouteDecision) -> None:
        """Record what answered a completion. Returns at once."""
        metrics.decision(decision)
        tell(model=decision.requested, reason=decision.reason)
        if len(self._waiting) >= WAITING:
            self._dropped += 1
            metrics.DROPPED.inc()
            return
        body = decision.model_dump(mode="json")
        self._waiting.append(Event(project=project, stream=STREAM, job=decision.completion, kind=ROUTE, body=body))
        self._news.set()

    async def run(self) -> None:
        """Write batches until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(BATCH_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits; when it returns, what was noted before is written, if the store is up."""
        async with self._writing:
            self._news.clear()
            batch, self._waiting = self._waiting, []
            if self._dropped:
                log.error("%d route decisions were dropped: the store is too slow", self._dropped)
                self._dropped = 0
            try:
                await to_thread.run_sync(events.append, batch)
            except Exception:
                log.exception("%d route decisions could not be written yet", len(batch))
                self._waiting = batch + self._waiting
                self._news.set()
