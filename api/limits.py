"""Requests and tokens a minute for each key, counted in this process: no lock, as one thread alone counts.

A bucket holds a minute's worth and fills evenly. Requests are counted when they come; of tokens an estimate of the
prompt is, which the answer corrects when it tells how many there were. Who leaves before has paid the estimate. A key
may go below nothing by what was under way; it then waits longer.
"""

import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable

from moatelier.errors import RateLimited
from moatelier.settings import settings
from store.keys import Key

KEYS = 4096
METER = "moatelier.meter"
"""Where the guard leaves a request's meter, if its key's tokens are limited."""
_TOTAL = re.compile(rb'"total_tokens": ?(\d+)')
_PAIR = re.compile(rb'"tokens": ?\{"prompt": ?(\d+), ?"completion": ?(\d+)\}')
"""How a recipe's stream tells what all its calls cost."""
_DELTA = re.compile(rb'"delta": ?\{"(?:content|role|reasoning)|"object": ?"text_completion"')
PROMPT = 32_768
"""Tokens charged at most before the answer has told: pictures and sound are many bytes and few tokens."""
Header = tuple[bytes, bytes]


class Bucket:
    """So many a minute.

    Args:
        limit: What it holds, and what comes in in a minute.
        now: Seconds, monotonic.
    """

    __slots__ = ("at", "level", "limit")

    def __init__(self, limit: int, now: float) -> None:
        self.limit, self.level, self.at = limit, float(limit), now

    def _fill(self, now: float) -> None:
        self.level = min(float(self.limit), self.level + (now - self.at) * self.limit / 60)
        self.at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until so much is there; 0 or less: it is."""
        self._fill(now)
        return (min(amount, self.limit) - self.level) * 60 / self.limit

    def take(self, amount: float, now: float) -> None:
        """Take out; it may go below nothing."""
        self._fill(now)
        self.level -= amount

    @property
    def left(self) -> int:
        """Whole ones that are there."""
        return max(0, math.floor(self.level))

    @property
    def full_in(self) -> str:
        """When it is full again, as OpenAI writes it: 6m0s, 1.5s, 20ms."""
        seconds = max(0.0, (self.limit - self.level) * 60 / self.limit)
        if seconds < 1:
            return f"{math.ceil(1000 * seconds)}ms"
        minutes, rest = divmod(math.ceil(10 * seconds) / 10, 60)
        return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"


class Limits:
    """The buckets of the keys that were seen last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], Bucket] = OrderedDict()

    def admit(self, key: Key, *, asks: bool) -> list[Header]:
        """Count a request; the headers that tell how much is left.

        Args:
            key: Whose request it is.
            asks: It asks a model, and so costs tokens.

        Raises:
            RateLimited: The key has none left.
        """
        now, headers = self._clock(), list[Header]()
        requests, tokens = self._bucket(key, "requests", now), self._bucket(key, "tokens", now)
        for kind, bucket, applies in (("requests", requests, True), ("tokens", tokens, asks)):
            if bucket is not None and applies and (wait := bucket.wait(1, now)) > 0:
                raise RateLimited(
                    f"The key has had its {bucket.limit} {kind} a minute.",
                    remedy=f"Come back in {math.ceil(wait)} s, or have the limit raised.",
                    retry_after_s=wait,
                )
        if requests is not None:
            requests.take(1, now)
        for kind, bucket in (("requests", requests), ("tokens", tokens)):
            headers += [] if bucket is None else _told(kind, bucket)
        return headers

    def counts_tokens(self, key: Key) -> bool:
        """The key's tokens are limited."""
        return bool(_limit(key, "tokens"))

    def spend(self, key: Key, tokens: int) -> None:
        """Count the tokens of an answer."""
        if (bucket := self._bucket(key, "tokens", self._clock())) is not None:
            bucket.take(tokens, self._clock())

    def _bucket(self, key: Key, kind: str, now: float) -> Bucket | None:
        limit, name = _limit(key, kind), (key.id, kind)
        if not limit:
            return None
        bucket = self._kept.get(name)
        if bucket is None or bucket.limit != limit:
            bucket = self._kept[name] = Bucket(limit, now)
            if len(self._kept) > KEYS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(name)
        return bucket


def _limit(key: Key, kind: str) -> int:
    own = key.requests_per_minute if kind == "requests" else key.tokens_per_minute
    general = settings().requests_per_minute if kind == "requests" else settings().tokens_per_minute
    return general if own is None else own


def _told(kind: str, bucket: Bucket) -> list[Header]:
    told = {"limit": str(bucket.limit), "remaining": str(bucket.left), "reset": bucket.full_in}
    return [(f"x-ratelimit-{name}-{kind}".encode(), value.encode()) for name, value in told.items()]


class Meter:
    """Reads an answer as it goes by for what it cost: its own count, or else the prompt and a token for each piece.

    Attributes:
        prompt: Tokens of the prompt as estimated by its bytes, which have been charged already.
    """

    def __init__(self) -> None:
        self._total = self._pieces = self.prompt = 0

    def charge(self, bytes: int) -> int:
        """Estimate a prompt by the bytes of its body: what to charge before the answer is there."""
        self.prompt = min(bytes // 4, PROMPT)
        return self.prompt

    def refund(self) -> None:
        """The request was refused: nobody was asked."""
        self._total = self._pieces = 0
        self.prompt = 0

    def tell(self, tokens: int) -> None:
        """Take somebody's word for it."""
        self._total = tokens

    def read(self, body: bytes) -> None:
        """Look at a piece of the answer."""
        if found := _TOTAL.findall(body):
            self._total = int(found[-1][:12])
        elif pairs := _PAIR.findall(body):
            self._total = sum(int(number[:12]) for number in pairs[-1])
        else:
            self._pieces += len(_DELTA.findall(body))

    @property
    def tokens(self) -> int:
        """What has been seen so far."""
        return self._total or self.prompt + self._pieces
