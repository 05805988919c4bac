"""One layer's race: everybody is asked, enough is enough, and nobody is waited for beyond the deadline."""

import asyncio
from collections.abc import Coroutine
from math import floor
from typing import Any

from moatelier.contracts import Layer, Proposal

LEAST_PATIENCE_S = 0.25
"""The rest have at least so long after the quorum, however quick it was."""


class Late(Exception):
    """The layer went on before this one answered."""


class Quorum:
    """Runs the calls of one layer, and ends those that are left when the layer goes on.

    Args:
        layer: Says how many are enough, how patient to be with the rest, and the deadline.
        size: How many calls there are.
    """

    def __init__(self, layer: Layer, size: int) -> None:
        self.needed = min(size, layer.quorum or floor(size / 2) + 1)
        self._closed = False
        self._layer, self._left, self._good = layer, size, 0
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._running: set[asyncio.Task[Proposal]] = set()
        self._timers = [self._loop.call_later(layer.deadline_s, self.close)]

    async def run(self, work: Coroutine[Any, Any, Proposal]) -> Proposal:
        """One call's proposal; one with an error does not count towards the quorum.

        Raises:
            Late: The layer went on without it; the call was ended.
        """
        if self.closed():
            work.close()
            raise Late
        task = asyncio.create_task(work)
        self._running.add(task)
        try:
            proposal = await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self.closed() and not (current and current.cancelling()):
                raise Late from None
            raise
        finally:
            self._running.discard(task)
            self._count_down()
        self._heard(proposal)
        return proposal

    def closed(self) -> bool:
        """Whether the layer has gone on."""
        return self._closed

    def close(self) -> None:
        """Go on: whoever still works on an answer is stopped."""
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        for task in self._running:
            task.cancel()

    def _heard(self, proposal: Proposal) -> None:
        if proposal.error:
            return
        self._good += 1
        if self._good == self.needed and self._left and not self._closed:
            rest = self._layer.patience * (self._loop.time() - self._begun)
            self._timers.append(self._loop.call_later(max(LEAST_PATIENCE_S, rest), self.close))

    def _count_down(self) -> None:
        self._left -= 1
        if not self._left:
            self.close()
