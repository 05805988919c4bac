"""What the words around a number make of it, and which measures a text names."""

import re
from typing import Literal

from agents.words import lead, part, sentence
from moatelier.contracts import MetricName

METRIC_NAMES: dict[MetricName, str] = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "exact_match": "exact match",
    "word_accuracy": "word accuracy",
    "recall_at_1": "recall@1",
    "recall_at_5": "recall@5",
    "preference_accuracy": "preference accuracy",
}

Role = Literal["goal", "weak", "error", "baseline", "relative", "upper", "aside"]
"""What a number is: the goal, perhaps the goal, a share of errors, how it is now, a change, an upper limit, other."""

_OWN = r"(?:right|correct|matching) (?:image|picture|photo|caption|description|text|one)s? (?:\w+ ){0,2}"
_METRICS: tuple[tuple[str, str], ...] = (
    (
        rf"recall ?(?:@|at) ?5|r@5|top[- ]5 recall|{_OWN}(?:among|in|within) (?:the )?(?:(?:first|best|top) (?:5|five)"
        r"|(?:5|five) (?:first|best))",
        "recall_at_5",
    ),
    (rf"recall ?(?:@|at) ?1|r@1|top[- ]1 recall|{_OWN}(?:first|on top|at the top)", "recall_at_1"),
    (r"recall ?(?:@|at) ?\d+(?! ?%)|r@\d+", "(none)"),
    (r"top[- ]?\d+(?: accuracy)?", "(none)"),
    (r"micro[- ]?(?:averaged )?f[- ]?1?(?:[- ]?(?:score|measure))?", "accuracy"),
    (r"weighted[- ]f[- ]?1(?:[- ]score)?", "weighted F1"),
    (r"(?:macro[- ]?(?:averaged? )?)?f[- _]?1(?:[- _]?macro)?(?:[- ]?(?:score|measure))?", "macro_f1"),
    (r"macro[- _]?f[- _]?(?:score|measure)|f-(?:score|measure)|macro[- ]average", "macro_f1"),
    (
        r"exact(?:[- _]?match(?:es)?|[- ](?:words?|transcripts?)|ly (?:right|the same|as written))|verbatim"
        r"|word for word",
        "exact_match",
    ),
    (r"word[- ]accuracy|wer", "word_accuracy"),
    (r"character[- ](?:error[- ]rate|accuracy)|cer", "(none)"),
    (r"preference[- ]accuracy|accuracy of preferences?|win[- ]rate", "preference_accuracy"),
    (r"accura(?:cy|te(?:ly)?)|acc(?=\W*\d|\W+of\b)|accurcay|acurracy|accuarcy|acuracy", "accuracy"),
    (r"(?<!the )(?<!its )(?:right(?! now| away)|correct(?:ly)?)|hit rate|success rate", "(right)"),
    (r"recall", "(recall)"),
    (r"precision|auc|auroc|roc|bleu|rouge|perplexity|mae|rmse|kappa|loss|specificity|sensitivity", "(none)"),
)
_METRIC = [(re.compile(rf"(?<![\w.-])(?:{pattern})(?!\w)", re.I), name) for pattern, name in _METRICS]
_NEGATED = re.compile(
    r"(?:\bnot|n't|rather than|instead of|ignor\w+|forget|except|no)(?: (?:care about|the|just|plain|use|by))* $", re.I
)

_FILL = (
    r"(?:\s|~|ca\.?|(?:about|around|roughly|approximately|some|only|just|be|an?|the|of|is|at|to|score|rate|reach"
    r"|level)\b)*$"
)
_CONFIDENCE = (
    re.compile(rf"(?:confiden\w+|certain\w*|significance)(?: level| interval)?[\s:=]*{_FILL}", re.I),
    re.compile(r"\s?-?(?:statistical )?(?:confiden|certain|sure\b|significan|ci\b|credib)", re.I),
)
_RELATIVE = (
    re.compile(rf"(?:\bby|\+|\bimprov\w+(?: \w+)? by|\bextra|\banother|\badd)\s*(?:at least )?{_FILL}", re.I),
    re.compile(
        r"\s?(?:-?points?\b|pp\b|percentage|better\b|higher\b|more (?!or)|improve|increase|gain|less\b|fewer\b"
        r"|lower\b|faster\b|cheaper\b)",
        re.I,
    ),
)
_SHARE = (
    re.compile(
        rf"(?:h[oe]ld(?:ing)?[- ]?(?:out|back)?|reserv\w+|set(?:ting)? aside|split\w*(?: off)?|(?:train|test"
        rf"|validat\w+|evaluate)(?:ing)? (?:it )?(?:on|with)|sampl\w+|subset of|take|drop)\s*{_FILL}",
        re.I,
    ),
    re.compile(
        r"\s?(?:of )?(?:(?:the|all|my|our|it|them|your|these|this) )?(?:data\b|dataset|rows?\b|examples|file\b"
        r"|records|samples|lines)(?!.*\b(?:right|correct|accura))"
        r"|\s?(?:as |for |of )?(?:an? |the |my )?(?:test\b|tests\b|testing|validation|training|train\b|dev\b"
        r"|hold-?out|evaluation)"
        r"|\s?of (?:it|them|that|the (?:data|rows|file)) (?:for|as|to) (?:the )?(?:test|valid|train)",
        re.I,
    ),
)
_ERROR = (
    re.compile(
        rf"(?:errors?(?:[- ]rate)?|mistakes?|misclassif\w+|wrong|failures?|(?<!\w)wer)[\s:]*(?:(?:of|is) )?(?:<=?|under"
        rf"|below|less than|at most|no more than|up to|max\w*|should|must|not|over|above|to|has|needs?)*\s*(?:be )?"
        rf"(?:<=?|under|below|less than|at most|no more than|up to|over|above|higher than)?\s*{_FILL}",
        re.I,
    ),
    re.compile(
        r"\s?(?:-?errors?\b|mistakes?|wrong\b|misclassif|failures?|wer\b|(?:of )?[\w ]{0,24}(?:wrong|misclassified"
        r"|mislabell?ed|errors))",
        re.I,
    ),
)
_NOW = (
    re.compile(
        r"(?:\b(?:current(?:ly)?|now|today|right now|at the moment|so far|already|baseline|used to|before"
        r"|previous\w*|until now|the base|our old \w+|(?:it|model|base|version|system|that one)(?: only"
        r"| just)? gets|was|were|stuck)\b"
        rf"|(?:'re|\bare|'s|\bis) (?:only |just |stuck )?at|(?<!if )(?<!that )(?<!until )(?<!so )\bwe (?:only "
        rf")?(?:have|get)|\bgot|\bup from"
        rf"|\binstead of|\bfrom|\bmore than (?:the|our) (?:current|old)|\bis only)(?: (?:it|we|model|accuracy"
        rf"|f1|reach\w*|have|get|gets|is|are|has|result|score|system|the|our|one))*\s*{_FILL}",
        re.I,
    ),
    re.compile(r"\s?(?:\w+ )?(?:now\b|today|currently|at the moment|so far|right now|at present|already)", re.I),
)
_NOT_BELOW = re.compile(
    rf"(?:\bnot|\bno|never|nothing|n't|without)(?: (?:be|fall\w*|drop\w*|go\w*|get\w*|less|lower|worse|settle"
    rf"|accept|anything))* (?:below|under|less than|lower than|worse than|than|for less than)\s*{_FILL}",
    re.I,
)
_UPPER = re.compile(
    rf"(?:\bat most|\bno more than|\bnot more than|\bbelow|\bunder|\bless than|\bmax(?:imum)?(?: of)?|<=?"
    rf"|\blower than)\s*{_FILL}",
    re.I,
)
_GOAL = (
    re.compile(
        rf"(?:\bat least|>=?|\bmin(?:imum)?\b|\bover|\babove|\bmore than|\bbetter than|\bexceed\w*|\bbeat\w*"
        rf"|\breach\w*|\bhit\w*|\bget(?: me| us| it)?(?: up)?(?: to)?|\bachiev\w+|\btarget\w*|\bgoal"
        rf"|\baim\w*(?: for| at)?|\bwant\w*|\bneed\w*|\bscor\w+|\bup to|\bupwards of|\bexpect\w*|\bshould"
        rf"|\bmust|\bhigher than|\btouch\w*|\bpass\w*|\buntil|\btill|\benough)[\s:=]*{_FILL}",
        re.I,
    ),
    re.compile(
        r"\s?(?:or (?:better|more|higher|above|so)|(?:is|would be) (?:fine|ok|okay|enough|good enough"
        r"|acceptable)\b|\+|and (?:up|above|higher)|plus\b|at least|minimum"
        r"|of (?:them|the|all|my|our|its|these|those|messages|tickets|questions|answers|cases|time"
        r"|new)\b.*\b(?:right|correct)|of the time|hits?\b|target|goal)",
        re.I,
    ),
)


SETTING = re.compile(
    r"(?:learning[- ]rate|\blr|dropout|temperature|top[-_ ]?p|alpha|weight[- ]decay|warm-?up\w*|threshold"
    r"|version|\bv|beta|rank|jaccard|similarity|probability|seed|discount|price)\W*(?:of|to|at|is)?\W*$",
    re.I,
)


def role_of_number(text: str, start: int, end: int) -> Role:
    """The role of the number at a span, by the words of its sentence."""
    low, high = sentence(text, start, end)
    before, after = text[low:start], text[end:high]
    near = text[part(text, start, end)[0] : start]

    def cue(pair: tuple[re.Pattern[str], re.Pattern[str]]) -> bool:
        return bool(pair[0].search(near) or pair[1].match(after))

    if cue(_CONFIDENCE):
        return "aside"
    if _NOT_BELOW.search(near):
        return "goal"
    if cue(_ERROR):
        return "error"
    if cue(_SHARE):
        return "aside"
    if _GOAL[1].match(after) and not _NOW[0].search(near):
        return "goal"
    if cue(_RELATIVE):
        return "relative"
    if cue(_NOW):
        return "baseline"
    if _UPPER.search(near):
        return "upper"
    low, high = part(text, start, end)
    if _GOAL[0].search(before) or metrics_named(text[low:high]):
        return "goal"
    return "weak"


def nearest_metric(text: str, start: int, end: int) -> str | None:
    """The measure named nearest to a number in its sentence, by its own name; `(right)` and `(none)` are kept."""
    low, high = sentence(text, start, end)
    best: tuple[int, str] | None = None
    for place, name in metrics_named(text[low:high]):
        gap = min(abs(low + place[0] - end), abs(start - low - place[1]))
        if best is None or gap < best[0]:
            best = gap, name
    return best[1] if best else None


def metrics_named(text: str) -> list[tuple[tuple[int, int], str]]:
    """Measures named in a text with their places; a negated one (`not accuracy`) is left out."""
    found: list[tuple[tuple[int, int], str]] = []
    for pattern, name in _METRIC:
        for match in pattern.finditer(text):
            if name == "(none)":
                name_here = f"(none) {match[0].lower()}"
            else:
                name_here = "(none) weighted F1" if name == "weighted F1" else name
            if not _NEGATED.search(lead(text, match.start())):
                found.append((match.span(), name_here))
        text = pattern.sub(lambda match: " " * len(match[0]), text)
    return sorted(found)
