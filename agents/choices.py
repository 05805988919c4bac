"""The smaller choices of a request: kind of task, method, base, name, seed; and wishes that nobody may set."""

import re
from collections.abc import Sequence

from agents.policies import LONG, PRIVATE
from agents.reading import Reading, Said, joined
from agents.senses import read_senses
from agents.words import blank, lead, quote
from moatelier.contracts import Question
from moatelier.ids import slug

RESERVED = ("champion", "challenger", "auto", "base", "moa", "ft", "task")
"""Names that mean something else where an adapter's name is written."""

_TERM = r"(?:\"(?P<q1>[^\"]+)\"|'(?P<q2>[^']+)'|`(?P<q3>[^`]+)`|(?P<w>[\w.-]*\w(?-i:(?: [A-Z][\w-]*)*)))"
_NAME = re.compile(
    rf"\b(?:(?:call|name) (?:it|this|that|the (?:adapter|model|task|result))(?: as)?|(?:adapter|model"
    rf"|task) (?:called|named)"
    rf"|(?:adapter|task|model) name\s?(?:is|:|=)|(?<!column )\bname\s?[:=]|(?:save|register|publish"
    rf"|release) (?:it|this|the (?:adapter|model)) (?:as|under(?: the name)?))(?: the)? {{0,2}}{_TERM}",
    re.I,
)
_NO_NAME = {"a", "an", "the", "as", "to", "off", "for", "with", "in", "and", "by", "from"}
_SEED = re.compile(r"\bseed(?: number)?\s?(?:of|is|to|=|:)?\s?(?P<n>\d+)", re.I)

_FULL = (
    r"full(?:[- ]parameter)? (?:fine[- ]?)?tun\w+|(?:fine[- ]?)?tun\w+ (?:it|the (?:whole|entire) model) fully"
    r"|(?:tune|train|update)(?: all(?: of)?)? (?:the )?(?:all )?weights"
)
_HALF = r"half (?:fine[- ]?)?tun\w+|hft"
_OTHER_METHODS = re.compile(
    r"(?<![\w-])(?:q-?lora|dora|rs-?lora|pissa|adalora|ia3|vera|lora-fa|dylora|lomo|mezo|dpo|ppo|orpo|kto|grpo|rlhf"
    rf"|{_FULL}|{_HALF}|(?:prompt|prefix)[- ]tuning|rag|distill?ation)(?![\w-])",
    re.I,
)
_NOT = re.compile(
    r"(?:\bnot|n't|\bno|\bwithout|\binstead of|\brather than|\bnever)(?: (?:use|using|do|do any|any|a|the))* $", re.I
)

_CHAT = re.compile(
    r"(?<!\w)(?:chat ?bots?|(?:reply|replies|respond|answers?|talk|write|speak|sound) (?:like|in (?:our|the|a)"
    r"|as (?:a|our|we)|to (?:customers|users|people|questions|them))"
    r"|summari[sz]e\w*|rewrit\w+|translat\w+|(?:write|draft|generate|compose) (?:the |our |good |polite "
    r"|short )?(?:repl|answer|respons|text|e-?mail)\w*|(?:chat|instruction)[- ](?:tuning|model|task))(?!\w)",
    re.I,
)
_CLASSES = re.compile(
    r"(?<!\w)(?:classif\w+|categori[sz]\w+|triag\w+|classes|sort(?:s|ing)? (?:\w+ )*(?:by|into)|(?:predict\w*"
    r"|detect\w*) (?:the |its |their )?(?:label|category|class|intent|topic|sentiment))(?!\w)",
    re.I,
)
_OTHER_DATA = re.compile(
    r"(?<!\w)(?:(?:classify|recogni[sz]e|tag|caption|describe|label|sort)(?: the| these| my| our"
    r"| all)? (?:images?|pictures?|photos?|photographs|screenshots)|transcri(?:be|bing|ption)"
    r"|speech recognition|audio (?:clips|files|recordings)|voice recordings)(?!\w)",
    re.I,
)
_DATA = (
    r"(?:rows|messages|tickets|examples|lines|texts|data|entries|conversations|images|pictures|photos|recordings"
    r"|clips)"
)
_SOME_ROWS = re.compile(
    rf"\b(?:use|train|learn|take|tune)(?: \w+)? only (?:on |from )?[\w ]+|\bonly (?:use|take|train on"
    rf"|learn from|with|on) [\w ]+"
    rf"|\bonly (?:the )?{_DATA} (?:from|where|of|with|in|whose|that|which|between) [\w ]+"
    rf"|\b(?:the )?(?:first|last) \d+ {_DATA}|\b\d+ {_DATA} only\b|\bonly \d+ {_DATA}|\ba (?:random )?(?:sample"
    rf"|subset) of\b[\w ]*",
    re.I,
)
_TRAINERS = re.compile(
    r"(?<![\w.])(?:\d+ epochs?|epochs?\s?[:=]\s?\d+|learning[- ]rate(?: of| is| to|:|=)? ?[\d.e-]+"
    r"|lr ?[:=]? ?[\d.e-]+|batch[- ]size(?: of| is|:|=)? ?\d+|(?:lora )?rank(?: of| is|:|=)? ?\d+"
    r"|dropout(?: of| is|:|=)? ?[\d.]+)",
    re.I,
)
_SPLITS = re.compile(
    r"(?<![\w./])(?:\d\d[/:-]\d\d(?:[/:-]\d\d)?(?: (?:train|test|split)\w*)(?:[- ]split)?"
    r"|(?:h[oe]ld(?:ing)?[- ]?(?:out|back)|reserve|set aside|split off|train on|use) \d+\s?%[\w ]*"
    r"|\d+\s?% (?:for |as )?(?:the )?(?:test|validation|training)\w*)",
    re.I,
)


def read_choices(
    text: str, bases: Sequence[str], methods: Sequence[str], modality: str = "text", file: str = "the file"
) -> Reading:
    """What a text (normalised, names blanked) says about kind, method, base and seed.

    Args:
        text: The person's words, without names of files and of the adapter.
        bases: Those on offer.
        methods: Those on offer, the default first.
        modality: What the file holds.
        file: Its name.
    """
    readings = [_read_method(text, methods), _read_base(text, bases), _read_seed(text)]
    if modality != "text":
        readings.append(read_senses(text, modality, file))
    else:
        readings += [_read_kind(text), *_other_data(text)]
    if (
        (some := _SOME_ROWS.search(text))
        and not PRIVATE.search(text, some.start())
        and not LONG.search(text, some.start())
    ):
        question = Question(
            field="rows",
            text=f'You said "{some[0].strip()}". All rows of a file are used; send a file with just these rows, or '
            f"shall I use all?",
            choices=("use all rows",),
        )
        readings.append(Reading(unclear={"rows": question}))
    return joined([*readings, Reading(notes=_wishes(text))])


def _other_data(text: str) -> list[Reading]:
    if match := _OTHER_DATA.search(text):
        question = Question(
            field="modality",
            text=f'You said "{match[0]}". The file holds text; pictures or recordings come in a zip. Is this a '
            f"task on the text of the file?",
            choices=("yes, text",),
        )
        return [Reading(unclear={"modality": question})]
    return []


def read_name(text: str, bases: Sequence[str]) -> tuple[Reading, str]:
    """The adapter's name in a text, and the text without it, so that no word of the name is read as a wish."""
    for match in _NAME.finditer(text):
        name = match["q1"] or match["q2"] or match["q3"] or match["w"]
        if name.lower() in _NO_NAME or name.lower() in bases:
            continue
        rest = blank(text, [match.span()])
        return name_reading(name, match[0]), rest
    return Reading(), text


def name_reading(name: str, words: str) -> Reading:
    """A name as the adapter will carry it, or the question for another one."""
    short = slug(name)
    if short in RESERVED:
        return Reading(
            unclear={
                "name": Question(
                    field="name", text=f'"{name}" cannot be an adapter\'s name here. How shall it be called?'
                )
            }
        )
    return Reading({"name": Said(short, f'You said "{words}".')})


def _read_kind(text: str) -> Reading:
    chat, classes = _CHAT.search(text), _CLASSES.search(text)
    if chat and not classes:
        return Reading({"kind": Said("chat", f'You said "{quote(text, *chat.span())}".', 0.9)})
    if classes and not chat:
        return Reading({"kind": Said("classification", f'You said "{quote(text, *classes.span())}".', 0.95)})
    return Reading()


def _read_method(text: str, methods: Sequence[str]) -> Reading:
    offer = (
        f"Here there is {', '.join(methods)}. Shall I use it?"
        if len(methods) == 1
        else f"Here there are {', '.join(methods)}. Which one?"
    )
    found = _named_methods(text, methods)
    wanted = {method: match[0] for method, match in found if not _NOT.search(lead(text, match.start()))}
    problem = ""
    for match in _OTHER_METHODS.finditer(text):
        offered = match[0].lower() in methods or any(_within(match, other) for _, other in found)
        if not offered and not _NOT.search(lead(text, match.start())):
            problem = f'"{match[0]}" is not available yet. {offer}'
    if len(wanted) > 1:
        problem = problem or f"You named {' and '.join(wanted)}. Which one shall be used?"
    elif found and not wanted:
        problem = problem or f"You do not want {found[0][0]}. {offer}"
    if problem:
        choices = tuple(wanted) if len(wanted) > 1 else tuple(methods)
        return Reading(unclear={"method": Question(field="method", text=problem, choices=choices)})
    said = [Said(method, f'You named "{words}".') for method, words in wanted.items()]
    return Reading({"method": said[0]} if said else {})


def _named_methods(text: str, methods: Sequence[str]) -> list[tuple[str, re.Match[str]]]:
    """Methods on offer and where they are named; the LoRA in "rank-stabilised LoRA" is none of its own."""
    found = [
        (method, match)
        for method in methods
        for match in re.finditer(rf"(?<![\w-])(?:{_spelt(method)})(?![\w-])", text, re.I)
    ]
    return [
        (m, match) for m, match in found if not any(_within(match, o) for _, o in found if o.span() != match.span())
    ]


def _within(inner: re.Match[str], outer: re.Match[str]) -> bool:
    return outer.start() <= inner.start() and inner.end() <= outer.end()


_NAMESAKE = r"(?-i:{0}|{1}|{2})|{1} (?:method|adapters?)"
_SPELT = {
    "alora": "alora|activated lora",
    "rslora": "rs[-_ ]?lora|rank[- ]stabili[sz]ed lora",
    "dora": _NAMESAKE.format("DoRA", "dora", "DORA"),  # Dora and Vera are people too
    "vera": _NAMESAKE.format("VeRA", "vera", "VERA"),
    "adalora": "ada[-_ ]?lora|adaptive lora",
    "ia3": r"\(?ia\)?\s?\^?3",
    "lora_fa": "lora[-_ ]fa",
    "dylora": "dy[-_ ]?lora|dynamic lora",
    "qlora": r"q[-_ ]?lora|quanti[sz]ed lora|(?:4|four)[- ]bit lora",
    "full": rf"{_FULL}|method full|full method",
    "hft": _HALF,
}
"""Method -> how people write it, where that is not its name."""


def _spelt(method: str) -> str:
    """How people write a method's name: blanks or dashes for underscores; LoRA for that of whatever modality."""
    spelt = _SPELT.get(method) or re.escape(method).replace("_", "[-_ ]")
    return f"{spelt}|lora" if method.endswith("_lora") else spelt


_BASE_CUE = re.compile(
    r"(?:\bbase(?: model)?|\bmodel|\btun\w+|\bfine-?tun\w+|\buse|\busing|\bstart(?:ing)? from|\btop of"
    r"|\bon)(?:\s?(?:is|to|[:=]|the|a|model|base|called|named|on))*\s?[\"'`]?$",
    re.I,
)
_BASE_AFTER = re.compile(r"[\"'`]? (?:base|model)\b", re.I)
_KNOWN_FAMILIES = re.compile(
    r"(?<![\w-])(?:llama|qwen|mistral|mixtral|gemma|phi-?\d|gpt|falcon|bert|roberta|deepseek|t5|claude|pythia|olmo|bloom|smollm|whisper|efficientnet|resnet)[\w.-]*(?<![.-])",
    re.I,
)
_BASE_IS = re.compile(r"\bbase(?: model)?\s?(?:is|[:=])\s?[\"'`]?(?P<name>[\w./-]*\w)", re.I)


def _read_base(text: str, bases: Sequence[str]) -> Reading:
    found: dict[str, tuple[str, float]] = {}
    for match in re.finditer(r"[\w.-]*\w", text):
        word = match[0].lower()
        cue = bool(_BASE_CUE.search(lead(text, match.start()))) or bool(_BASE_AFTER.match(text, match.end()))
        telling = any(sign.isdigit() or sign == "-" for sign in word)
        if word in bases and (cue or telling) and not _NOT.search(lead(text, match.start())):
            found[word] = (match[0], 1.0)
        elif len(word) >= 5 and (cue or telling):
            begins = [base for base in bases if base.startswith(word) and base != word]
            found |= {base: (match[0], 0.9) for base in begins}
    if not found:
        return _unknown_base(text, bases)
    if len(found) > 1:
        return Reading(
            unclear={"base": Question(field="base", text="Which base model is meant?", choices=tuple(found))}
        )
    ((base, (words, sure)),) = found.items()
    return Reading({"base": Said(base, f'You named "{words}".', sure)})


def _unknown_base(text: str, bases: Sequence[str]) -> Reading:
    match = _BASE_IS.search(text)
    words = match["name"] if match else ""
    if not match:
        for family in _KNOWN_FAMILIES.finditer(text):
            if _BASE_CUE.search(lead(text, family.start())) and not _NOT.search(lead(text, family.start())):
                words = family[0]
    if not words:
        return Reading()
    question = f'"{words}" is no base that this service tunes; MOATELIER_BASE sets another. Which one shall be tuned?'
    return Reading(unclear={"base": Question(field="base", text=question, choices=tuple(bases))})


def _read_seed(text: str) -> Reading:
    if not (match := _SEED.search(text)):
        return Reading()
    if int(match["n"]) >= 2**31:
        return Reading(unclear={"seed": Question(field="seed", text="The seed must be below 2147483648. Which seed?")})
    return Reading({"seed": Said(int(match["n"]), f'You said "{match[0]}".')})


def _wishes(text: str) -> tuple[str, ...]:
    notes = []
    if settings := [match[0].strip() for match in _TRAINERS.finditer(text)]:
        notes.append(
            f"The trainer chooses epochs, learning rate and the like itself and adjusts them between trials; "
            f'"{", ".join(settings)}" is not taken over.'
        )
    if split := _SPLITS.search(text):
        notes.append(
            f"The split is fixed: 60 % train, 10 % dev, 10 % select, 20 % locked test, or 80/10/10 with a "
            f'test file; "{split[0].strip()}" is not taken over.'
        )
    return tuple(notes)
