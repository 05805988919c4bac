"""Route decisions, and what was observed of answers, go to the store behind the requests: no request waits for it."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from anyio import to_thread

from api import metrics
from api.trace import tell
from evals import observing
from evals.observing import Heard
from moatelier.contracts import Event, Observation, RouteDecision, Side, now
from moatelier.settings import settings
from serving.targets import Target
from store import events, exchanges, observations
from store.exchanges import Exchange
from store.feedback import ROUTE

STREAM = "inference"
"""The stream of events that belong to no conversation."""
BATCH_S = 0.25
WAITING = 20_000
"""Decisions that may wait; beyond that (the store has been down for long) new ones are dropped and counted."""
SPOKEN = 1_000
"""Answers that may wait to become numbers: they hold words."""
log = logging.getLogger("moatelier.api")


@dataclass(frozen=True)
class Spoken:
    """An answer that is over, with its words, which are dropped as soon as its numbers are known."""

    project: str
    target: Target
    subject: str
    heard: Heard
    slow_s: float
    shadow: bool
    rollout: str | None
    side: Side | None
    completion: str
    messages: tuple[dict[str, Any], ...]


class DecisionLog:
    """Bounded lists and the task that empties them in batches."""

    def __init__(self) -> None:
        self._waiting: list[Event] = []
        self._spoken: list[Spoken] = []
        self.unseen: set[asyncio.Task[None]] = set()
        """Answers in the shadow that are being made."""
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

    def heard(self, spoken: Spoken) -> None:
        """An answer is over. Returns at once; where too many wait, this one is left out."""
        metrics.answer(spoken.heard, spoken.shadow)
        if len(self._spoken) < SPOKEN:
            self._spoken.append(spoken)
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
            spoken, self._spoken = self._spoken, []
            try:
                await to_thread.run_sync(keep, spoken)
            except Exception:
                log.exception("%d observations could not be written and are lost", len(spoken))


def keep(spoken: list[Spoken]) -> None:
    """Turn answers into numbers and keep these; their words too, where the operator has said so (blocking)."""
    observations.append([_observed(each) for each in spoken])
    if settings().keep_texts_days:
        kept = [each for each in spoken if each.completion and not each.shadow and not each.heard.error]
        exchanges.append([_exchange(each) for each in kept])


def _observed(spoken: Spoken) -> Observation:
    target = spoken.target
    return Observation(
        project=spoken.project,
        model=target.requested,
        chosen=target.digest or target.model,
        rollout=spoken.rollout,
        side=spoken.side,
        subject=spoken.subject,
        shadow=spoken.shadow,
        good=observing.is_good(spoken.heard, spoken.slow_s),
        numbers=observing.numbers(spoken.heard, settings().price_per_hour),
    )


def _exchange(spoken: Spoken) -> Exchange:
    """Texts alone: pictures and recordings are not kept."""
    turns = [
        {"role": str(turn.get("role")), "content": turn["content"]}
        for turn in spoken.messages
        if isinstance(turn.get("content"), str)
    ]
    answer = spoken.heard.answer
    return Exchange(project=spoken.project, completion=spoken.completion, messages=turns, answer=answer, at=now())
