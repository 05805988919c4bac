"""Places where a text names a real column: as written, in the plural, with spaces for underscores, or with a typo."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz, process

from agents.words import blank

CLOSE = 80
"""From this ratio (rapidfuzz, 0 to 100) on a word with the same first letter is a typo of a column's name."""


@dataclass(frozen=True)
class Mention:
    """A place where a text names a column. `score` is 100 for the exact name."""

    column: str
    start: int
    end: int
    score: float
    words: str


def mentions(text: str, columns: Sequence[str], *, typos: bool = True) -> list[Mention]:
    """The columns a text names, in order of place."""
    found: list[Mention] = []
    rest = text
    spellings = [(spelling, column, score) for column in columns for spelling, score in _spellings(column).items()]
    for spelling, column, score in sorted(spellings, key=lambda each: (-len(each[0]), -each[2])):
        for match in re.finditer(rf"(?<!\w){re.escape(spelling)}(?!\w|-\w)", rest, re.I):
            found.append(Mention(column, *match.span(), score, text[slice(*match.span())]))
            rest = blank(rest, [match.span()])
    for match in re.finditer(r"[^\W\d][\w-]{3,}", rest) if typos else ():
        if near := _near(match[0], columns):
            found.append(Mention(near, *match.span(), fuzz.ratio(match[0].lower(), near.lower()), match[0]))
    return sorted(found, key=lambda mention: mention.start)


def _spellings(column: str) -> dict[str, float]:
    name = column.strip().lower()
    spaced = re.sub(r"[_\-.\s]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column)).strip().lower()
    spellings = {name: 100.0}
    for form in (spaced, spaced.replace(" ", "_"), spaced.replace(" ", "-"), spaced.replace(" ", "")):
        spellings.setdefault(form, 97.0)
    for form in list(spellings):
        for other in _other_number(form):
            spellings.setdefault(other, 95.0)
    return {spelling: score for spelling, score in spellings.items() if spelling}


def _other_number(word: str) -> tuple[str, ...]:
    if word.endswith("ies") and len(word) > 4:
        return (word[:-3] + "y",)
    if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        return (word[:-1], word[:-2]) if word.endswith(("ses", "xes", "ches", "shes")) else (word[:-1],)
    if word.endswith("y") and len(word) > 3:
        return (word[:-1] + "ies",)
    return (word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s"),) if len(word) > 2 else ()


def _near(word: str, columns: Sequence[str]) -> str | None:
    """The one column a misspelt word stands for."""
    close = process.extract(
        word.lower(), [column.lower() for column in columns], scorer=fuzz.ratio, limit=2, score_cutoff=CLOSE
    )
    close = [hit for hit in close if hit[0][:1] == word[:1].lower()]
    if not close or (len(close) == 2 and close[0][1] - close[1][1] < 8):
        return None
    return columns[close[0][2]]
