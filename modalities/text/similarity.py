"""How alike two texts are, from 0 to 1, and whether they compare: what graders measure. Imports no torch.

Words are lower-cased runs of letters and digits. BLEU (Papineni et al. 2002) is of one sentence, with the add-one
smoothing of Lin and Och (2004, ORANGE); GLEU is of Wu et al. (arXiv 1609.08144); ROUGE (Lin 2004) is the F1 of n-grams
or of the longest common subsequence; METEOR (Banerjee and Lavie 2005) aligns equal words and words of equal stem, and
knows no synonyms, so that it is at most what an implementation with WordNet gives.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq

from moatelier.contracts import Operation

_WORD = re.compile(r"\w+")
_MOST_GRAMS = 4
_SUFFIXES = ("ingly", "edly", "ing", "ed", "ly", "ies", "es", "s")
_SHORTEST_STEM = 3


def compares(operation: Operation, text: str, reference: str) -> bool:
    """Whether a text compares with the reference: `like` holds it, `ilike` whatever the case."""
    if operation == "ilike":
        return reference.casefold() in text.casefold()
    return {"eq": text == reference, "ne": text != reference, "like": reference in text}[operation]


def words(text: str) -> list[str]:
    """Its words, lower-cased."""
    return _WORD.findall(text.lower())


def fuzzy_match(text: str, reference: str) -> float:
    """One less the normalised distance by insertions and deletions of characters."""
    return fuzz.ratio(text, reference) / 100


def _grams(found: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(found[at : at + size]) for at in range(len(found) - size + 1))


def _overlap(ours: Counter[tuple[str, ...]], theirs: Counter[tuple[str, ...]]) -> int:
    return (ours & theirs).total()


def bleu(text: str, reference: str) -> float:
    """The geometric mean of the precisions of one to four words, times the brevity penalty."""
    ours, theirs = words(text), words(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    logs = 0.0
    for size in range(1, _MOST_GRAMS + 1):
        mine = _grams(ours, size)
        more = int(size > 1)  # add-one smoothing: of single words none is added, so that nothing shared is 0
        hits = _overlap(mine, _grams(theirs, size)) + more
        if not hits:
            return 0.0
        logs += math.log(hits / (mine.total() + more)) / _MOST_GRAMS
    return math.exp(logs + min(0.0, 1 - len(theirs) / len(ours)))


def gleu(text: str, reference: str) -> float:
    """The lesser of recall and precision of all n-grams of one to four words."""
    ours, theirs = words(text), words(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    sizes = range(1, _MOST_GRAMS + 1)
    hits = sum(_overlap(_grams(ours, size), _grams(theirs, size)) for size in sizes)
    return hits / max(sum(_grams(found, size).total() for size in sizes) for found in (ours, theirs))


def rouge(size: int, text: str, reference: str) -> float:
    """The F1 of n-grams of `size` words; texts that are shorter than that have none in common."""
    mine, theirs = _grams(words(text), size), _grams(words(reference), size)
    return _f1(_overlap(mine, theirs), mine.total(), theirs.total())


def rouge_l(text: str, reference: str) -> float:
    """The F1 of the longest common subsequence of words."""
    ours, theirs = words(text), words(reference)
    return _f1(LCSseq.similarity(ours, theirs), len(ours), len(theirs))


def _f1(hits: int, ours: int, theirs: int) -> float:
    return 2 * hits / (ours + theirs) if hits else 0.0


def meteor(text: str, reference: str) -> float:
    """The mean of precision and recall that weighs recall nine to one, less a penalty for words that lie apart."""
    ours, theirs = words(text), words(reference)
    places = _aligned(ours, theirs)
    hits = sum(place is not None for place in places)
    if not hits:
        return 0.0
    precision, recall = hits / len(ours), hits / len(theirs)
    mean = 10 * precision * recall / (recall + 9 * precision)
    return mean * (1 - 0.5 * (_chunks(places) / hits) ** 3)


def _aligned(ours: Sequence[str], theirs: Sequence[str]) -> list[int | None]:
    """For each of our words the place of its like in the reference, each place once; equal words first, then stems."""
    places: list[int | None] = [None] * len(ours)
    taken: set[int] = set()
    for like in (str, _stem):
        known = [like(word) for word in theirs]
        for at, word in enumerate(ours):
            if places[at] is None:
                free = (place for place, other in enumerate(known) if other == like(word) and place not in taken)
                places[at] = next(free, None)
                taken |= {place for place in (places[at],) if place is not None}
    return places


def _stem(word: str) -> str:
    suffix = next((each for each in _SUFFIXES if word.endswith(each)), "")
    return word[: -len(suffix)] if suffix and len(word) - len(suffix) >= _SHORTEST_STEM else word


def _chunks(places: Sequence[int | None]) -> int:
    found, before = 0, None
    for place in places:
        found += place is not None and (before is None or place != before + 1)
        before = place
    return found


MEASURES: Mapping[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "meteor": meteor,
    **{f"rouge_{size}": partial(rouge, size) for size in range(1, 6)},
    "rouge_l": rouge_l,
}
"""All but `cosine`, which needs a model."""
