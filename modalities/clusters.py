"""Sets of rows that belong together, whatever a row is: equal keys, and pairs joined to clusters."""

from collections import defaultdict
from collections.abc import Iterable


class UnionFind:
    """Disjoint sets of the numbers below `size`."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def root(self, item: int) -> int:
        """The smallest member of an item's set."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, left: int, right: int) -> None:
        """Make two sets one."""
        low, high = sorted((self.root(left), self.root(right)))
        self._parent[high] = low

    def sets(self) -> list[list[int]]:
        """All sets, each in ascending order, ordered by their smallest member."""
        found: dict[int, list[int]] = defaultdict(list)
        for item in range(len(self._parent)):
            found[self.root(item)].append(item)
        return list(found.values())


def exact_groups(keys: Iterable[object]) -> list[list[int]]:
    """Positions of equal keys, for every key that stands at least twice."""
    found: dict[object, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        found[key].append(position)
    return [positions for positions in found.values() if len(positions) > 1]
