"""A job that asks the engine outlives it: what failed while the engine was started again is asked again.

Else an engine that is killed, or not up yet after a restart of the whole service, would be taken for what it serves:
its models would be wrong on rows that nobody put to them, and a look at locked rows be spent on nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from graphs.answering import Answers, answering
from moatelier.errors import MoatelierError, UpstreamError
from moatelier.job import Job
from moatelier.settings import settings
from serving.upstream import Upstream

T = TypeVar("T")
PATIENCE_S = 120.0
"""So long an engine may take to be back; loading torch and a base takes seconds."""
MOST_LIVES = 5
"""An engine that dies more often dies of the questions."""
POLL_S = 0.5


class Steady:
    """The engine in one of its lives.

    Args:
        url: Where it listens.
        life: When this life began, as the engine tells it.
    """

    def __init__(self, url: str, life: object) -> None:
        self._url, self._life = url, life

    async def need(self) -> None:
        """After a failure: whether it can be believed.

        Raises:
            UpstreamError: The engine is gone or lives anew; `steadily` asks again.
        """
        if await _life(self._url) != self._life:
            raise UpstreamError("The engine was started again meanwhile.", where=self._url)


async def steadily(url: str, job: Job, work: Callable[[Answers, Steady], Awaitable[T]]) -> T:
    """Do work that asks the engine; once more from its beginning whenever the engine lives anew.

    Args:
        url: Where the engine listens.
        job: May be asked to stop while the engine is waited for.
        work: Is given new connections and breakers each time, and keeps what need not be asked twice.

    Raises:
        UpstreamError: The engine does not come back, or dies again and again.
        Cancelled: The job was asked to stop.
        MoatelierError: What the work raised while the engine lived.
    """
    for lives_left in reversed(range(MOST_LIVES)):
        life = await _back(url, job)
        try:
            async with answering(url) as answers:
                return await work(answers, Steady(url, life))
        except MoatelierError:
            job.check()
            if not lives_left or await _back(url, job) == life:
                raise
    raise AssertionError("the last life returns or raises")


async def _back(url: str, job: Job) -> object:
    """The life of an engine that may have to be waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while (life := await _life(url)) is None:
        job.check()
        if time.monotonic() > deadline:
            raise UpstreamError(
                f"The engine has not answered for {PATIENCE_S:.0f} s.", where=url, remedy="Check that it runs."
            )
        await asyncio.sleep(POLL_S)
    return life


async def _life(url: str) -> object:
    """When the engine began to serve its base; None when it does not answer."""
    async with Upstream(url) as upstream:
        try:
            listed = await upstream.models()
        except MoatelierError:
            return None
    return next((model.get("created") for model in listed if model.get("id") == settings().base), 0)
