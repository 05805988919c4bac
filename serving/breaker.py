"""A circuit breaker: what fails again and again is left alone for a while, then tried by one request.

with breaker.guard():
    ...                 # an error of ours is a failure, being cancelled is none
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from moatelier.errors import MoatelierError, UpstreamError


class Breaker:
    """Closed, it lets everything through; after `failures` in a row it is open for `open_s`; then one may try.

    Args:
        name: What it stands before, for the error's `where`.
        failures: In a row; a success forgets them.
        open_s: Seconds.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, name: str, *, failures: int = 5, open_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.limit, self.open_s, self._clock = name, failures, open_s, clock
        self._failures, self._until, self._trying = 0, 0.0, False

    @property
    def open(self) -> bool:
        """Whether a call would be refused now."""
        return self._failures >= self.limit and (self._trying or self._clock() < self._until)

    @property
    def fresh(self) -> bool:
        """Whether there is nothing to remember."""
        return not self._failures and not self._trying

    @contextmanager
    def guard(self, counts: Callable[[MoatelierError], bool] = lambda error: error.status >= 500) -> Iterator[None]:
        """Around one call.

        Args:
            counts: Whether an error is a failure. Any other shows that there is life, like a success.

        Raises:
            UpstreamError: The circuit is open; the call is not made.
        """
        if self.open:
            raise UpstreamError(
                f"It failed {self._failures} times in a row and is not asked for now.",
                where=self.name,
                remedy=f"It is tried again in {max(0.1, self._until - self._clock()):.1f} s.",
            )
        self._trying = self._failures >= self.limit
        try:
            yield
        except MoatelierError as error:
            if counts(error):
                self.fail()
            else:
                self._failures, self._trying = 0, False
            raise
        except BaseException:
            self._trying = False  # whoever asked went away: that says nothing about what was asked
            raise
        self._failures, self._trying = 0, False

    def fail(self) -> None:
        """Count a failure that no exception told of: an answer that broke off, or came too late."""
        self._failures, self._trying = self._failures + 1, False
        if self._failures >= self.limit:
            self._until = self._clock() + self.open_s
