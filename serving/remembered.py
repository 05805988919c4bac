"""Results that are remembered while memory has room; those asked for least recently are forgotten first.

Keys name everything that a result depends on: contents and adapters by their digests, never by names that may come to
stand for something else.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

from serving.memory import Memory

T = TypeVar("T")


class Remembered(Generic[T]):
    """Results of one kind.

    Args:
        kind: Tells their keys from those of other kinds in the same memory.
        memory: Counts their bytes.
    """

    def __init__(self, kind: str, memory: Memory) -> None:
        self._kind, self._memory = kind, memory
        self._found: dict[Hashable, T] = {}
        self.hits = 0
        """How often a result was there."""

    def get(self, key: Hashable) -> T | None:
        """The result, if it is remembered."""
        found = self._found.get(key)
        if found is not None:
            self.hits += 1
            self._memory.touch((self._kind, key))
        return found

    def put(self, key: Hashable, result: T, size: int) -> None:
        """Remember a result of so many bytes, unless it is remembered or there is no room for it."""
        if key not in self._found and self._memory.keep((self._kind, key), size, lambda: self._drop(key)):
            self._found[key] = result

    def clear(self) -> None:
        """Forget everything."""
        for key in self._found:
            self._memory.forget((self._kind, key))
        self._found.clear()

    def _drop(self, key: Hashable) -> None:
        del self._found[key]
