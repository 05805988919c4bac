"""Asking again, only where that is safe: nothing was sent, the request changes nothing, or the server says when.

The waits have full jitter, so that clients that failed together do not come back together (AWS architecture blog,
"Exponential backoff and jitter").
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from random import Random
from typing import TypeVar

import httpx

from moatelier.contracts import now
from moatelier.errors import MoatelierError

T = TypeVar("T")
SAYS_WHEN = (429, 503)
"""Statuses by which a server may ask to be asked again."""
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Nothing has reached the server."""


class Again(Exception):
    """A failure after which the same request may be sent again.

    Args:
        error: What is raised when it is not.
        after_s: What the server asked for; None leaves it to us.
    """

    def __init__(self, error: MoatelierError, after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.after_s = error, after_s


@dataclass(frozen=True)
class Retries:
    """How often, and how long to wait between.

    Attributes:
        attempts: All together; 1 never asks again.
        base_s: Upper bound of the first wait; it doubles.
        longest_s: No wait is longer; a server that asks for more is not asked again.
    """

    attempts: int = 3
    base_s: float = 0.1
    longest_s: float = 5.0
    random: Random = field(default_factory=Random, compare=False)

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until it does not raise `Again`; then its result, or the last failure's error."""
        for attempt in range(1, self.attempts + 1):
            try:
                return await call()
            except Again as again:
                wait = self.wait_s(attempt, again.after_s)
                if attempt == self.attempts or wait is None:
                    raise again.error from again
                await asyncio.sleep(wait)
        raise AssertionError("there is at least one attempt")

    def wait_s(self, attempt: int, after_s: float | None) -> float | None:
        """Seconds before the next attempt; None when the server asks for too many."""
        ours = self.random.uniform(0, min(self.longest_s, self.base_s * 2 ** (attempt - 1)))
        if after_s is None:
            return ours
        return after_s + ours if after_s <= self.longest_s else None


def after_s(answer: httpx.Response) -> float | None:
    """When the server wants to be asked again, in seconds from now; None when it does not say so."""
    if answer.status_code not in SAYS_WHEN:
        return None
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        told = answer.headers.get(name, "")
        try:
            return max(0.0, float(told) / unit)
        except ValueError:
            continue
    return _until(answer.headers.get("retry-after", ""))


def _until(date: str) -> float | None:
    try:
        moment: datetime = parsedate_to_datetime(date)
        return max(0.0, (moment - now()).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a time zone
        return None
