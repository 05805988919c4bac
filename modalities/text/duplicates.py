"""Exact and near duplicates among short texts.

Near means a Jaccard similarity of at least 0.8 on word 3-grams, found by MinHash and locality-sensitive hashing
(Broder, 1997, "On the resemblance and containment of documents") and verified on the true sets.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

from datasketch import MinHash, MinHashLSH

from modalities.clusters import UnionFind

NEAR = 0.8
_GRAM = 3
_PERMUTATIONS = 128
_BANDS = (32, 4)
"""32 bands of 4 values: a pair at 0.8 is missed once in ten million, one at 0.3 is looked at one time in five."""

_WORD = re.compile(r"\w+(?:['’]\w+)*")


def normalise(text: str) -> str:
    """A text as exact duplicates are compared: compatibility form, case folded, blanks collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str) -> frozenset[str]:
    """The word 3-grams of a text; its words when there are fewer than three; the text itself when it has no word."""
    words = _WORD.findall(normalise(text))
    if len(words) < _GRAM:
        return frozenset(words or [normalise(text)])
    return frozenset(" ".join(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """The share of shingles two texts have in common, of all that either has."""
    union = len(left | right)
    return len(left & right) / union if union else 1.0


def near_pairs(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs of positions whose texts are near duplicates or equal.

    Texts with the same shingles are chained, each to the one before, so that a thousand copies give 999 pairs.
    """
    by_set: dict[frozenset[str], list[int]] = defaultdict(list)
    for position, text in enumerate(texts):
        by_set[shingles(text)].append(position)
    for positions in by_set.values():
        yield from zip(positions, positions[1:], strict=False)
    sets = list(by_set)
    for left, right in _similar_sets(sets):
        yield by_set[sets[left]][0], by_set[sets[right]][0]


def _similar_sets(sets: Sequence[frozenset[str]]) -> Iterator[tuple[int, int]]:
    index = MinHashLSH(num_perm=_PERMUTATIONS, params=_BANDS)
    blank = MinHash(num_perm=_PERMUTATIONS, seed=1)  # copying its permutations is faster than drawing them each time
    for position, members in enumerate(sets):
        sketch = blank.copy()
        sketch.update_batch([member.encode() for member in sorted(members)])
        for earlier in sorted(index.query(sketch)):
            if jaccard(sets[earlier], members) >= NEAR:
                yield earlier, position
        index.insert(position, sketch, check_duplication=False)


def near_clusters(texts: Sequence[str]) -> list[list[int]]:
    """Clusters of two or more positions that are linked by near-duplicate pairs."""
    sets = UnionFind(len(texts))
    for left, right in near_pairs(texts):
        sets.join(left, right)
    return [members for members in sets.sets() if len(members) > 1]


def near_any(texts: Sequence[str], others: Sequence[str]) -> list[int]:
    """Positions of `texts` that nearly repeat one of `others`."""
    own = len(texts)
    found: set[int] = set()
    groups: dict[frozenset[str], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for position, text in enumerate([*texts, *others]):
        groups[shingles(text)][position >= own].append(position)
    sets = list(groups)
    for members in groups.values():
        if members[0] and members[1]:
            found.update(members[0])
    for pair in _similar_sets(sets):
        left, right = (groups[sets[side]] for side in pair)
        found.update(left[0] if right[1] else [], right[0] if left[1] else [])
    return sorted(found)
