"""One budget of bytes for everything the engine holds beside the base: running rows, cached blocks, adapters.

What is being used is *taken* and cannot be evicted. What may come in useful is *kept*: the kept things used least
recently make room, whatever they are. A kept thing that is held (by a running row, or pinned by a person) stays.
"""

import ctypes
import gc
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass


def return_to_system() -> None:
    """Give memory that is free within the process back to the system, where the C library can (glibc)."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)


@dataclass
class _Kept:
    size: int
    drop: Callable[[], None]
    holders: int = 0


class Memory:
    """Counts bytes against a limit.

    Args:
        limit: In bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        """Bytes that cannot be evicted now, held things not counted."""
        self.evicted = 0
        """How many things have been evicted so far."""
        self.held = 0
        """Bytes that cannot be evicted: taken, or kept and held."""
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._kept_bytes = 0

    @property
    def used(self) -> int:
        """Bytes in all."""
        return self.taken + self._kept_bytes

    def take(self, size: int) -> bool:
        """Take bytes, evicting what must go; False, and nothing changed, when not enough can be evicted."""
        if not self._make_room(size):
            return False
        self.taken += size
        self.held += size
        return True

    def fits(self, size: int) -> bool:
        """Whether so many bytes could be taken or kept, after evicting what may go."""
        return self.held + size <= self.limit

    def give(self, size: int) -> None:
        """Give taken bytes back."""
        assert 0 <= size <= self.taken
        self.taken -= size
        self.held -= size

    def keep(self, key: Hashable, size: int, drop: Callable[[], None]) -> bool:
        """Keep a thing as the one used last; False, and nothing changed, when there is no room for it.

        Args:
            key: Names it; not known yet.
            size: In bytes.
            drop: Called when it is evicted.
        """
        assert key not in self._kept
        if not self._make_room(size):
            return False
        self._kept[key] = _Kept(size, drop)
        self._kept_bytes += size
        return True

    def touch(self, key: Hashable) -> None:
        """The thing is used now."""
        self._kept.move_to_end(key)

    def hold(self, key: Hashable) -> None:
        """Do not evict the thing until it is released as many times."""
        kept = self._kept[key]
        self.held += 0 if kept.holders else kept.size
        kept.holders += 1
        self.touch(key)

    def release(self, key: Hashable) -> None:
        """Undo one `hold`."""
        kept = self._kept[key]
        assert kept.holders > 0
        kept.holders -= 1
        self.held -= 0 if kept.holders else kept.size

    def forget(self, key: Hashable) -> None:
        """The thing is gone; its `drop` is not called."""
        kept = self._kept.pop(key)
        self._kept_bytes -= kept.size
        self.held -= kept.size if kept.holders else 0

    def _make_room(self, size: int) -> bool:
        if self.used + size <= self.limit:
            return True
        if not self.fits(size):
            return False
        while self.used + size > self.limit:
            key = next(key for key, kept in self._kept.items() if not kept.holders)
            drop = self._kept[key].drop
            self.forget(key)
            self.evicted += 1
            drop()
        return True
