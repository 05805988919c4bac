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
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._kept_bytes = 0

    @property
    def used(self) -> int:
        """Bytes in all."""
        return self.taken + self._kept_bytes

    @property
    def held(self) -> int:
        """Bytes that cannot be evicted: taken, or kept and held."""
        return self.taken + sum(kept.size for kept in self._kept.values() if kept.holders)

    def take(self, size: int) -> bool:
        """Take bytes, evicting what must go; False, and nothing changed, when not enough can be evicted."""
        if not self._make_room(size):
            return False
        self.taken += size
        return True

    def give(self, size: int) -> None:
        """Give taken bytes back."""
        assert 0 <= size <= self.taken
        self.taken -= size

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
        self._kept[key].holders += 1
        self.touch(key)

    def release(self, key: Hashable) -> None:
        """Undo one `hold`."""
        assert self._kept[key].holders > 0
        self._kept[key].holders -= 1

    def forget(self, key: Hashable) -> None:
        """The thing is gone; its `drop` is not called."""
        self._kept_bytes -= self._kept.pop(key).size

    def _make_room(self, size: int) -> bool:
        if self.used + size <= self.limit:
            return True
        if self.held + size > self.limit:
            return False
        for key in [key for key, kept in self._kept.items() if not kept.holders]:
            kept = self._kept[key]
            self.forget(key)
            self.evicted += 1
            kept.drop()
            if self.used + size <= self.limit:
                break
        return True
