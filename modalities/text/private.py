"""Private data in texts: email, phone, credit card (checksum), IBAN (checksum), IP address, US social security number.

Presidio's patterns find candidates; since no language model reads the context, a few rules here judge it. Support
texts are full of order, ticket and version numbers, which must not be taken for phones and addresses.
"""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

THRESHOLD = 0.5
_CONTEXT_CHARS = 32
_BOOST = 0.35
"""What a fitting word nearby adds, as in Presidio's own context enhancer."""

_PHONE_WORD = re.compile(r"\b(phone|telephone|tel|call|cell|cellphone|mobile|whatsapp|ring|reach me)\b", re.I)
_SSN_WORD = re.compile(r"\b(social security|ssn)\b", re.I)
_REFERENCE_WORD = re.compile(
    r"\b(order|ticket|invoice|tracking|parcel|shipment|reference|ref|case|account|article|item|serial|code|amount)\b|#",
    re.I,
)
_VERSION = re.compile(r"\b(version|ver|v|firmware|release|build|app|update)\W*$", re.I)

Hit = tuple[str, int, int, float]


@dataclass(frozen=True)
class PrivateSpan:
    """A private datum at `text[start:end]`.

    `kind` is `email`, `phone`, `credit_card`, `iban`, `ip_address` or `us_ssn`.
    """

    kind: str
    start: int
    end: int
    score: float


def find_private(text: str) -> tuple[PrivateSpan, ...]:
    """The private data in a text, in order, without overlaps."""
    if not _may_hold(text):
        return ()
    spans = [PrivateSpan(kind, start, end, score) for kind, start, end, score in map(_judge(text), _recognise()(text))]
    chosen: list[PrivateSpan] = []
    for span in sorted(spans, key=lambda span: (-span.score, span.start - span.end, span.start, span.kind)):
        apart = all(span.end <= other.start or other.end <= span.start for other in chosen)
        if span.score >= THRESHOLD and apart:
            chosen.append(span)
    return tuple(sorted(chosen, key=lambda span: span.start))


def redact(text: str) -> str:
    """The text with each private datum replaced by its kind in brackets, such as `[email]`."""
    for span in reversed(find_private(text)):
        text = f"{text[: span.start]}[{span.kind}]{text[span.end :]}"
    return text


def _may_hold(text: str) -> bool:
    # Most texts hold nothing, and asking Presidio costs its import and about a millisecond a text.
    return "@" in text or sum(char.isdigit() for char in text) >= 4 or text.count(":") >= 2


@cache
def _recognise() -> Callable[[str], list[Hit]]:
    found: Callable[[str], list[Hit]] = importlib.import_module("modalities.text.recognisers").recognise
    return found


def _judge(text: str) -> Callable[[Hit], Hit]:
    def judged(hit: Hit) -> Hit:
        kind, start, end, score = hit
        before = text[max(0, start - _CONTEXT_CHARS) : start]
        after = text[end : end + _CONTEXT_CHARS]
        if kind == "phone":
            score = _phone_score(text[start:end], before, after, score)
        elif kind == "ip_address" and _VERSION.search(before):
            score = 0.0
        elif kind == "us_ssn" and _SSN_WORD.search(before):
            score += _BOOST
        return kind, start, end, score

    return judged


def _phone_score(found: str, before: str, after: str, score: float) -> float:
    if found.startswith("+"):
        return score + _BOOST
    # The nearest word before says what the number is: "for order 48213357" or "about my order call 48213357".
    phone, reference = _last(_PHONE_WORD, before), _last(_REFERENCE_WORD, before)
    if reference > phone:
        return 0.0
    if phone >= 0 or _PHONE_WORD.search(after):
        return score + _BOOST
    grouped = len(re.findall(r"\d+", found)) >= 3 or "(" in found
    return score + 0.2 if grouped and sum(char.isdigit() for char in found) >= 10 else score


def _last(pattern: re.Pattern[str], text: str) -> int:
    return max((match.end() for match in pattern.finditer(text)), default=-1)
