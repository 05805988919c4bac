"""Plain English made easy to read for a grammar: one spelling for signs, numbers in words, durations.

Nothing here knows what a number is for; `agents/goals.py` and `agents/limits.py` do.
"""

import re
import unicodedata
from dataclasses import dataclass

_ONES = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUE = {word: index for index, word in enumerate(_ONES.split(), 1)}
_VALUE |= {word: 10 * index for index, word in enumerate(_TENS.split(), 2)} | {"hundred": 100}

_TEN = "|".join(_TENS.split())
_ONE = "|".join(sorted(_ONES.split(), key=len, reverse=True))
NUMBER = rf"(?:\d+(?:\.\d+)?|\.\d+|(?:{_TEN})(?:[- ](?:{_ONE}))?|(?:a |one )?hundred|{_ONE})"
"""A number in digits or words, without groups; give what it matched to `number`."""

_ENDING = r"\.(?:csv|tsv|jsonl?|txt|parquet|xlsx?|zip|wav|mp3|flac|png|jpe?g)"
FILE_NAME = re.compile(
    rf"\"[^\"\n]+{_ENDING}\"|'[^'\n]+{_ENDING}'|[^\s\"'`,;:()]+{_ENDING}(?!\w)",
    re.I,
)

_SPELLINGS = (
    (re.compile(r"[\u2018\u2019\u201b\u2032]"), "'"),
    (re.compile(r"[\u201c\u201d\u201e\u00ab\u00bb]"), '"'),
    (re.compile(r"[\u2010-\u2015\u2212]"), "-"),
    (re.compile(r"\u2265|\u2267|=>(?=\s*[\d.])"), ">="),
    (re.compile(r"\u2264|\u2266|=<(?=\s*[\d.])"), "<="),
    (re.compile(r"\u2192"), "->"),
    (re.compile(r"(\d)\s?\u00bd"), r"\1.5"),
    (re.compile(r"\u00bd"), "half"),
    (re.compile(r"[\u00a0\t\u2009\u202f ]+"), " "),
)
_PERCENT_WORD = re.compile(r"(?<=[\w.)])[- ]*(?:percents?\b|per ?cents?\b|pct\b\.?)", re.I)
_DECIMAL_COMMA = re.compile(
    r"(?<![\d.,])(0,\d{1,4}|\d{1,2},\d{1,2}(?=\s?(?:%|percent|per ?cent|pct|hours?\b|hrs?\b|h\b|minutes?\b|mins?\b)))"
    r"(?![\d,])",
    re.I,
)


def normalise(text: str) -> str:
    """The same words with one spelling for quotes, dashes, comparison signs, spaces, decimals and per cent."""
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    text = unicodedata.normalize("NFKC", text).strip()
    text = _DECIMAL_COMMA.sub(lambda match: match[0].replace(",", "."), text)
    return _PERCENT_WORD.sub(" %", text)


def number(text: str) -> float:
    """The value of what `NUMBER` matched, such as `92`, `.5`, `ninety-five` or `a hundred`."""
    try:
        return float(text)
    except ValueError:
        return (
            float(sum(_VALUE[word] for word in re.split(r"[- ]", text.lower()) if word in _VALUE and word != "a"))
            or 1.0
        )


def blank(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with some spans turned into spaces, so that what is left keeps its place."""
    for start, end in spans:
        text = text[:start] + " " * (end - start) + text[end:]
    return text


_SENTENCE_END = re.compile(r"[!?;\n]|\.(?=\s|$)")
_PART_END = re.compile(r"[!?;,\n()]|\.(?=\s|$)|\s-+\s|\bbut\b")


def sentence(text: str, start: int, end: int) -> tuple[int, int]:
    """Where the sentence around a span begins and ends."""
    return _around(_SENTENCE_END, text, start, end)


def part(text: str, start: int, end: int) -> tuple[int, int]:
    """Where the part between commas around a span begins and ends."""
    return _around(_PART_END, text, start, end)


WINDOW = 400
"""Characters on either side beyond which no word counts any more; keeps long texts quick to read."""


def _around(border: re.Pattern[str], text: str, start: int, end: int) -> tuple[int, int]:
    low, high = max(0, start - WINDOW), min(len(text), end + WINDOW)
    before = [match.end() for match in border.finditer(text, low, start)]
    after = border.search(text, end, high)
    return (before[-1] if before else low), (after.start() if after else high)


def lead(text: str, start: int) -> str:
    """The words right before a place."""
    return text[max(0, start - WINDOW // 4) : start]


_PIECE = re.compile(r"[!?;,\n()]|\.(?=\s|$)|\s-+\s|\bbut\b|\s(?=(?:and|in|within|with|on|so|using|from|for|by)\s)")


def quote(text: str, start: int, end: int, limit: int = 60) -> str:
    """The person's own words around a span: the piece of the sentence it stands in, shortened to whole words."""
    low, high = _around(_PIECE, text, start, end)
    if high - low > limit:
        low, high = max(low, start - limit // 2), min(high, end + limit // 3)
        while low and low < start and text[low - 1].isalnum():
            low += 1
        while high > end and high < len(text) and text[high].isalnum():
            high -= 1
    piece = re.sub(r"\s+", " ", text[low:high]).strip(" ,;:-\"'")
    return re.sub(r"^(?:and|so|with|for|by) |\.$| and$", "", piece)


# ---------------------------------------------------------------- durations


@dataclass(frozen=True)
class Duration:
    """A length of time in a text. `seconds` is None where the words name no number (`a few minutes`)."""

    start: int
    end: int
    seconds: float | None
    low: float | None = None
    """The lower end of a range, in seconds."""


_UNIT = r"(?<![a-z])(?:seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![\w'])"
_HOURS, _MINUTES = r"(?:hours?|hrs?|h)", r"(?:minutes?|mins?|m)(?!\w)"
_DURATIONS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(rf"(?<![\w.]){pattern}", re.I), kind)
    for pattern, kind in (
        (rf"(?P<h>{NUMBER}|an?)\s?{_HOURS}[ ,]*(?:and )?(?P<m>{NUMBER})\s?{_MINUTES}", "hours and minutes"),
        (r"(?P<h>\d+)\s?h(?P<m>\d\d)(?![\w.])", "hours and minutes"),
        (rf"(?P<n>{NUMBER}|an?) (?P<u>{_UNIT}) and a half(?! \w+ )", "and a half"),
        (rf"(?P<n>{NUMBER}) and a half[- ](?P<u>{_UNIT})", "and a half"),
        (rf"three[- ]quarters of an? (?P<u>{_UNIT})", "0.75"),
        (rf"(?:an? |one )?quarter(?: of an?)?[- ](?P<u>{_UNIT})", "0.25"),
        (rf"half(?: of)?(?: an?)?[- ](?P<u>{_UNIT})", "0.5"),
        (rf"between (?P<low>{NUMBER})\s?(?:{_UNIT})?\s?and\s?(?P<n>{NUMBER})[- ]?(?P<u>{_UNIT})", "range"),
        (rf"(?P<low>{NUMBER})\s?(?:{_UNIT})?\s?(?:-|to|or)\s?(?P<n>{NUMBER})[- ]?(?P<u>{_UNIT})", "range"),
        (rf"(?P<n>{NUMBER})[- ]?(?P<u>{_UNIT})", "plain"),
        (rf"(?:a )?couple(?: of)? (?P<u>{_UNIT})", "2"),
        (r"(?:a |an )(?:single )?(?P<u>minute|hour|day)(?!\w)", "1"),
        (r"(?:a few|some|several|many) (?:minutes|hours|days)", "vague"),
        (r"over ?night|over (?:lunch|the weekend)|as long as (?:it takes|you (?:need|like|want))", "vague"),
        (r"(?:no|without(?: any| a)?) time[- ]limit|unlimited time", "vague"),
        (
            r"(?:by|until|till|before) (?:\d{1,2}(?::\d\d)? ?(?:am|pm|o'clock)|noon|tonight|midnight|tomorrow"
            r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day)",
            "vague",
        ),
    )
)


def durations(text: str) -> list[Duration]:
    """All lengths of time in a text, in order: `20 minutes`, `1h30`, `half an hour`, `10-15 min`, `overnight`."""
    found: list[Duration] = []
    for pattern, kind in _DURATIONS:
        for match in pattern.finditer(text):
            found.append(_duration(match, kind))
            text = blank(text, [match.span()])
    return sorted(found, key=lambda duration: duration.start)


def _duration(match: re.Match[str], kind: str) -> Duration:
    groups = match.groupdict()
    unit = _seconds(groups["u"]) if groups.get("u") else 1.0
    if kind == "vague":
        return Duration(*match.span(), None)
    if kind == "hours and minutes":
        return Duration(*match.span(), 3600 * number(groups["h"]) + 60 * number(groups["m"]))
    if kind == "range":
        return Duration(*match.span(), unit * number(groups["n"]), unit * number(groups["low"]))
    if kind in ("plain", "and a half"):
        return Duration(*match.span(), unit * (number(groups["n"]) + (0.5 if kind == "and a half" else 0)))
    return Duration(*match.span(), unit * float(kind))


def _seconds(unit: str) -> float:
    return {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}[unit[0].lower()]


def in_words(seconds: float) -> str:
    """A length of time as a person writes it: `45 seconds`, `20 minutes`, `1 h 30 min`."""
    whole = round(seconds)
    if whole < 120 and whole % 60:
        return f"{whole} seconds"
    if whole < 7200 and whole % 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} minute{'s' * (whole != 60)}"
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} hour{'s' * (hours != 1)}"


def percent(share: float) -> str:
    """A share as a person writes it: `92 %`, `97.5 %`."""
    return f"{round(100 * share, 2):g} %"
