"""A search read from plain words: that one is wanted, by which way, and over which values."""

import math
import re
from collections.abc import Mapping, Sequence

from agents.reading import Reading, Said
from agents.starts import Start, comparable, start
from agents.words import blank, lead, quote, sentence
from moatelier.contracts import Question, Search
from moatelier.contracts.search import MOST_VALUES, SearchBy, Value

TRIALS = 12
"""Of a search, when nobody said how many."""
USUALLY = ("rank", "learning_rate", "batch_rows")
"""What is searched when nobody says what: they cost no more time."""
USUAL_RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
USUAL = "search over ranks, learning rates and batch sizes"

_WAYS: tuple[tuple[SearchBy, re.Pattern[str]], ...] = (
    (
        "grid",
        re.compile(
            r"\bgrid[- ]?search\w*|\bsearch\w* (?:on |over |in |by |with )?(?:a |the )?grid\b|\bby grid\b", re.I
        ),
    ),
    (
        "random",
        re.compile(
            r"\brandom(?:ly)?[- ]?search\w*|\bsearch\w* (?:at random|randomly)|\bat random\b|\bby random\b", re.I
        ),
    ),
    ("tpe", re.compile(r"\btpe\b|\bbayes\w*[- ](?:search\w*|optimi[sz]\w+|tuning)|\boptuna\b", re.I)),
)
_GENERAL = re.compile(
    r"\bhyper-?param\w*(?: (?:search\w*|tuning|sweeps?|optimi[sz]ation))?|\b(?:search\w*|tun\w+|optimi[sz]\w+|sweep)"
    r" (?:over |for |through )?(?:the |good |best |better |all )*(?:training )?settings\b"
    r"|(?<=\bno )search(?! (?:by|for|over|engine))\b",
    re.I,
)
_OVER = re.compile(
    r"(?:\b(?:search|sweep|scan|explor|vary)(?:e|s|es|ing|ning)?(?: over| across| through| among| for)?"
    r"|\b(?:try|tun|optimi[sz]|find|compar)(?:e|s|es|ing)?(?: out)?(?: the| some| a few)?"
    r" (?:several|various|many|different|best|better|right|good)"
    r"|(?:(?<=trials )|(?<=runs )|(?<=attempts ))(?:of|with|over) (?:several|various|different))"
    r"(?: (?:the|all|some|several|various|many|different|best|number of|training|good|right))* $",
    re.I,
)
_NAMES: Mapping[str, str] = {
    "rank": r"(?:lora[- ])?ranks?",
    "learning_rate": r"learning[- ]rates?|lrs?",
    "epochs": r"(?:numbers? of )?epochs?(?: counts?)?",
    "batch_rows": r"batch(?:es|[- ]?sizes?)?(?: of rows)?",
    "layers": r"(?:which )?layers",
    "method": r"(?:fine-?)?(?:tuning )?methods?",
    "data_part": r"(?:parts?|shares?|fractions?|portions?|subsets?) of (?:the )?(?:training )?(?:data|rows|examples)"
    r"|(?:data|row) (?:parts?|shares?|fractions?|portions?)",
}
_NAME = re.compile("|".join(rf"(?P<{name}>(?<!\w)(?:{words})(?!\w))" for name, words in _NAMES.items()), re.I)
_PLAIN = r"(?:\d+(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?"
_NUMBER = rf"{_PLAIN}(?![\w.]?\w)"
_NO_UNIT = (
    r"(?!\s?%|\s?(?:trials?|runs?|attempts?|tries|try|settings|epochs?|layers|m|min\w*|s|secs?|seconds?|h|hours?"
    r"|hrs?)\b)"
)
_LINK = r"(?:\s*,\s*(?:and |or )?|\s+(?:and|or|to|-) |\s*[-/]\s*|\s+)"


def _list(number: str) -> re.Pattern[str]:
    """Numbers in a row right after a setting's name."""
    return re.compile(
        rf"\s*(?:of|in|from|between|among|at|are|is|[:=])?\s*[(\[]?(?P<all>{number}{_NO_UNIT}"
        rf"(?:{_LINK}{number}{_NO_UNIT})*)[)\]]?",
        re.I,
    )


_NUMBERS, _SHARES = _list(_NUMBER), _list(rf"(?:{_PLAIN} ?%|{_NUMBER})")
_WORDS = ("layers", "method")
_COUNT = re.compile(rf"(?<![\w.-])(?P<n>{_PLAIN})[- ]$", re.I)
_NO = re.compile(
    r"(?:\bno|\bnot|n't|\bwithout(?: any| a)?|\bnever|\binstead of)(?: (?:do|use|run|want|need))?(?: an?| any)?\s*$",
    re.I,
)
_RANGE = re.compile(r"\bbetween\b|\bfrom\b|\bto\b|(?<=[\d%])\s?-\s?(?=[\d.])", re.I)


def read_search(text: str, methods: Sequence[str]) -> tuple[Reading, str]:
    """What a text (normalised, file names blanked) says about a search, and the text without it.

    The reading's `search` is a Search whose space may lack the values: an empty list stands for the usual ones.

    Args:
        text: The person's words.
        methods: Those on offer.
    """
    ways = [(way, match) for way, pattern in _WAYS for match in pattern.finditer(text)]
    general = list(_GENERAL.finditer(text))
    named, spans = _named(text, methods, [match for _, match in ways] + general)
    cues = sorted([match.span() for _, match in ways] + [match.span() for match in general] + spans)
    if not cues:
        return Reading(), text
    words = quote(text, cues[0][0], cues[-1][1], limit=120)
    rest = blank(text, cues)
    if _NO.search(lead(text, cues[0][0])):
        return Reading({"search": Said({"by": "none", "space": {}}, f'You said "{words}".')}), rest
    by = ways[0][0] if ways else "tpe"
    space = named or {name: () for name in USUALLY}
    given = {name: values for name, values in space.items() if values}
    try:
        Search.model_validate({"by": by if given else "none", "space": given})
    except ValueError as error:
        why = str(error).split("Value error, ")[-1].split(" [type=")[0]
        question = Question(
            field="search", text=f'You said "{words}", but {why}. What shall be searched?', choices=(USUAL,)
        )
        return Reading(unclear={"search": question}), rest
    return Reading({"search": Said({"by": by, "space": space}, f'You said "{words}".')}), rest


def filled(said: Mapping[str, object], method: str, methods: Sequence[str]) -> Search:
    """A search with the usual values where none were given.

    Args:
        said: `by` and `space` as read; a setting's empty list stands for the usual values.
        method: The plan's.
        methods: Those that fit the task.

    Raises:
        ValueError: The values cannot be tried.
    """
    if said["by"] == "none":
        return Search()
    space = dict(said["space"])  # type: ignore[call-overload]  # a mapping, as read
    own = start(method)
    for name, values in space.items():
        space[name] = tuple(values) or _usual(name, own, methods)
    if own.rank == 1 and "method" not in space:  # it has none
        space.pop("rank", None)
    return Search.model_validate({"by": said["by"], "space": space})


def _usual(name: str, own: Start, methods: Sequence[str]) -> tuple[Value, ...]:
    rate = own.learning_rate
    usual: dict[str, tuple[Value, ...]] = {
        "rank": (4, 8, 16, 32),
        "learning_rate": USUAL_RATES if rate == 1e-3 else (rate / 4, rate / 2, rate, 2 * rate, 4 * rate),
        "epochs": (max(own.epochs - 1, 1.0), own.epochs, own.epochs + 2, 2 * own.epochs),
        "batch_rows": (own.batch_rows // 2, own.batch_rows, 2 * own.batch_rows),
        "layers": ("top_third",) if "all_layers" in own.unfit else ("top_third", "all"),
        "method": comparable(methods),
        "data_part": (0.25, 0.5, 1.0),
    }
    return usual[name]


# ---------------------------------------------------------------- settings and their values


def _named(
    text: str, methods: Sequence[str], cues: Sequence[re.Match[str]]
) -> tuple[dict[str, tuple[Value, ...]], list[tuple[int, int]]]:
    """The settings that are named where a search is spoken of, with their values, and where all that stands."""
    named: dict[str, tuple[Value, ...]] = {}
    spans: list[tuple[int, int]] = []
    begins = [match.start() for match in cues]
    for match in _NAME.finditer(text):
        low, _ = sentence(text, *match.span())
        verb = _OVER.search(text[low : match.start()])
        spoken_of = [at for at in (*begins, *(start for start, _ in spans)) if low <= at <= match.start()]
        if not verb and not spoken_of:
            continue
        name = str(match.lastgroup)
        values, end = _values(name, text, match.end(), methods)
        begin = low + verb.start() if verb else match.start()
        if name == "epochs" and not values and (count := _COUNT.search(text[low:begin])):
            values, begin = (_number(count["n"]),), low + count.start()
        named[name] = values or named.get(name, ())
        spans.append((begin, end))
    return named, spans


def _values(name: str, text: str, at: int, methods: Sequence[str]) -> tuple[tuple[Value, ...], int]:
    if name in _WORDS:
        return _words(name, text, at, methods)
    match = (_SHARES if name == "data_part" else _NUMBERS).match(text, at)
    if not match:
        return (), at
    found = [_number(each) for each in re.findall(rf"{_PLAIN}(?: ?%)?", match["all"], flags=re.I)]
    if len(found) == 2 and _RANGE.search(match[0]):
        found = _between(name, *sorted(found))
    whole = name in ("rank", "batch_rows")
    values = [int(each) if whole and each == int(each) else each for each in dict.fromkeys(found)]
    return tuple(values[:MOST_VALUES]), match.end()


def _number(text: str) -> float:
    return float(text.rstrip(" %")) / (100 if text.endswith("%") else 1)


def _between(name: str, low: float, high: float) -> list[float]:
    """Values from one to another: doublings of ranks and batches, thirds of decades of rates, else even steps."""
    if name in ("rank", "batch_rows") and low >= 1:
        doublings = [low * 2**step for step in range(math.floor(math.log2(high / low) + 1e-9) + 1)]
        return sorted({*doublings, high})
    if name == "learning_rate" and low > 0:
        steps = max(2, min(9, round(3 * math.log10(high / low)))) if high > low else 0
        return [float(f"{low * (high / low) ** (step / steps):.2g}") for step in range(steps + 1)] if steps else [low]
    if name == "epochs" and high - low <= 8:
        return [low + step for step in range(math.floor(high - low) + 1)]
    return [round(low + (high - low) * step / 3, 3) for step in range(4)]


def _words(name: str, text: str, at: int, methods: Sequence[str]) -> tuple[tuple[Value, ...], int]:
    """`layers: top third or all`; `methods lora and alora`."""
    known = {method: re.escape(method).replace("_", "[-_ ]") for method in methods} if name == "method" else {}
    known = known or {"top_third": r"(?:the )?top[- _]third", "all": r"all(?: of them)?"}
    each = "|".join(rf"(?P<{key}>(?<!\w){words}(?!\w))" for key, words in known.items())
    found: list[Value] = []
    while match := re.compile(
        rf"\s*(?:of|in|from|among|are|is|[:=,(/]|and|or)?\s*(?:and |or )?(?:{each})\)?", re.I
    ).match(text, at):
        found.append(str(match.lastgroup))
        at = match.end()
    return tuple(dict.fromkeys(found)), at
