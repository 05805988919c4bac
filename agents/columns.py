"""Which columns a person means, and for what: mentions of real column names with the words around them.

A mention is a column's name as it is written, in the plural, with spaces for underscores, or nearly so (a typo, which
counts only where the words around it give it a role). The roles are those of `ColumnGuess`, and `excluded`.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from rapidfuzz import fuzz

from agents.mentions import Mention, mentions
from agents.reading import Reading, Said
from agents.words import blank, sentence
from moatelier.contracts import Question

ROLE_WORDS = {
    "target": "what to predict",
    "input": "the text to go by",
    "messages": "the conversation",
    "group": "what belongs together",
    "rejected": "the answer that is liked less",
    "thumb": "the thumb up or down",
}


# ---------------------------------------------------------------- roles

_ADJ = (
    r"(?:\s?(?:the|its|their|his|her|an?|one of|each|every|any|all|our|my|your|these|those|this|that|right|correct"
    r"|proper|matching|customers?'?|users?'?|support|incoming|new|raw|of|column|field|columns|called|named|value"
    r"|values|what|is in|s)(?:'s)?\b|\s?[\"'`:=])*\s*$"
)
_SORTING = (
    r"(?:classif\w+|sort\w*|categori[sz]\w+|tag\w*|rout\w+|group(?:ing)?|label\w*|assign\w*|map\w*|turn\w*"
    r"|organi[sz]\w+|triag\w+|split\w*|separat\w+|bucket\w*)"
)
_IS = (
    r"\s?(?:column|field)?\s?(?:is|are|as|=|:|holds|contains|has|should be|shall be|will be|being|for)\s?(?:the|a"
    r"|an|my|our)?\s?"
)
_TARGET = (
    re.compile(
        rf"(?:\b(?:predict\w*|guess\w*|infer\w*|forecast\w*|determin\w+|detect\w*|recogni[sz]\w+|identify\w*"
        rf"|find out|tell\w*|learn\w*|estimat\w+|extract\w*|which|what)(?: me| us)?"
        rf"|\b(?:target|output|gold|truth|answer|class|label|labels|category|outcome|response)s?(?: column"
        rf"| field)?\s?(?:is|are|=|:|in|called|named|should be|comes? from|column)|->){_ADJ}",
        re.I,
    ),
    re.compile(
        rf"{_IS}(?:target|labels?\b|output|class\b|classes|truth|gold|answer|thing to predict|what (?:i"
        rf"|we) want|what to predict|to (?:be )?predict\w*)|\s?(?:as )?the (?:target|label|output)\b",
        re.I,
    ),
)
_INTO = re.compile(rf"\b{_SORTING}\b[^.;]*\b(?:by|into|in|to|as|with|according to|onto){_ADJ}", re.I)
_INPUT = (
    re.compile(
        rf"(?:\b(?:from|based on|given|using|out of|read\w*|looking at|look at|by the|go(?:es|ing)? by|behind)"
        rf"|\b(?:input|text|source|feature|question|prompt)s?(?: column| field)?\s?(?:is|are|=|:|in|called"
        rf"|named|column)"
        rf"|\b{_SORTING}){_ADJ}",
        re.I,
    ),
    re.compile(
        rf"{_IS}(?:input|text to|source|features?\b|prompt|what (?:the model|it) (?:reads|sees))"
        rf"|\s?(?:as )?the (?:input|text)\b|\s?(?:->|column to)",
        re.I,
    ),
)
_WEAK = re.compile(rf"\b(?:for|of|in|on) (?:each|every|an?|the|all|our|incoming|new){_ADJ}", re.I)
"""`of each message` makes an input only beside a target."""
_USE = (
    re.compile(rf"\b(?:use|take|with){_ADJ}", re.I),
    re.compile(r"[\w ,\"'`]* to (?:predict|tell|guess|find|infer|classify|determine)\b", re.I),
)
_GROUP = re.compile(
    rf"(?:\bgrouped (?:by|per)|\bgroup (?:by|column|field|is|=|:|rows by)|\bsplit (?:by|per|on)|\b(?:keep"
    rf"|stay) (?:together )?(?:per|by)|\bsame|\bper){_ADJ}",
    re.I,
)
_NOT_USED = re.compile(
    rf"(?:\bignor\w+|\bskip\w*|\bexclud\w+|\bwithout|\b(?:do not|don't|dont|never) (?:use|look at|read|predict"
    rf"|take|train on)|\bnot|\bleave out|\bexcept|\bforget(?: about)?|\bdrop|\binstead of|\brather than"
    rf"|\bno){_ADJ}",
    re.I,
)
_NOT_USED_AFTER = re.compile(
    r"\s?(?:column|field)?\s?(?:is|are|can be|should be|shall be)?\s?(?:(?:not|never)\b|irrelevant|ignored"
    r"|useless|unimportant|left out|out\b)",
    re.I,
)
_SOME_ROWS = re.compile(r"\s?(?:that|which|with|without|longer|too long|contain\w*|having|from|shorter)\b", re.I)
_MESSAGES = re.compile(
    rf"\b(?:messages|conversations?|dialog(?:ue)?s?)(?: column| field)\s?(?:is|=|:|called|named){_ADJ}", re.I
)


def role_of(text: str, mention: Mention) -> str | None:
    """The role that the words around a mention give its column."""
    low, high = sentence(text, mention.start, mention.end)
    before, after = text[low : mention.start], text[mention.end : high].lstrip("\"'`")
    if (_NOT_USED.search(before) and not _SOME_ROWS.match(after)) or _NOT_USED_AFTER.match(after):
        return "excluded"
    if (
        _GROUP.search(before)
        and (re.search(r"\bgroup|\bsame|\bkeep|\bstay", before, re.I))
        and not _TARGET[0].search(before)
    ):
        return "group"
    if _MESSAGES.search(before):
        return "messages"
    if _INPUT[1].match(after):
        return "input"
    if _TARGET[0].search(before) or _TARGET[1].match(after) or _INTO.search(before):
        return "target"
    if _INPUT[0].search(before) or (_USE[0].search(before) and _USE[1].match(after)):
        return "input"
    return "beside" if _WEAK.search(before) else None


def read_columns(text: str, columns: Sequence[str], file: str) -> Reading:
    """What a text (normalised, file names blanked) says about a file's columns; unknown names become questions."""
    if not columns:
        return Reading()
    found = mentions(text, columns)
    roles = _settle(text, [(mention, role_of(text, mention)) for mention in found])
    reading = Reading(excluded=frozenset(mention.column for mention, role in roles if role == "excluded"))
    by_role: dict[str, dict[str, Mention]] = {}
    for mention, role in roles:
        if role and role != "excluded" and mention.column not in reading.excluded:
            by_role.setdefault(role, {}).setdefault(mention.column, mention)
    for role, named in by_role.items():
        reading = _add(reading, role, named)
    covered = blank(text, [(mention.start, mention.end) for mention, role in roles if role or mention.score >= 95])
    return _unknown(covered, reading, columns, file)


def _settle(text: str, roles: list[tuple[Mention, str | None]]) -> list[tuple[Mention, str | None]]:
    """Roles that come from a neighbour: `channel or intent` share one, `the intent of each message` is a pair."""
    settled: list[tuple[Mention, str | None]] = []
    for index, (mention, role) in enumerate(roles):
        if role is None and settled and settled[-1][1]:
            between = text[settled[-1][0].end : mention.start]
            if re.fullmatch(r"[\"'`]?\s?(?:,|/|,? ?or|,? ?and)\s?(?:the )?[\"'`]?", between):
                role = settled[-1][1]
        if (
            role is None
            and mention.score >= 95
            and index + 1 < len(roles)
            and roles[index + 1][1] in ("input", "beside")
        ):
            between = text[mention.end : roles[index + 1][0].start]
            role = "target" if re.fullmatch(r"s? (?:of|for|behind|from|in)(?: \w+){0,3} ", between) else None
        settled.append((mention, role))
    target = any(role == "target" for _, role in settled)
    return [(mention, ("input" if target else None) if role == "beside" else role) for mention, role in settled]


def _add(reading: Reading, role: str, named: dict[str, Mention]) -> Reading:
    best = max(mention.score for mention in named.values())
    named = {column: mention for column, mention in named.items() if mention.score >= min(best, 95)}
    field = f"columns.{role}"
    if len(named) > 1:
        question = column_question(
            role, f"You named {_listed(list(named))} as {ROLE_WORDS[role]}. Which one is it?", list(named)
        )
        return replace(reading, unclear=dict(reading.unclear) | {field: question})
    ((column, mention),) = named.items()
    return replace(reading, said=dict(reading.said) | {field: said_column(mention, role)})


def said_column(mention: Mention, role: str) -> Said:
    """A column named by a person, with the reason for reading it so."""
    if mention.score < 95:
        reason = f'You wrote "{mention.words}" as {ROLE_WORDS[role]}; the nearest column is "{mention.column}".'
        return Said(mention.column, reason, round(mention.score / 100, 2))
    return Said(mention.column, f'You named "{mention.words}" as {ROLE_WORDS[role]}.')


def _listed(names: Sequence[str]) -> str:
    quoted = [f'"{name}"' for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


# ---------------------------------------------------------------- names that no column has

_PLAIN = {
    *"the this that a an each every which what second first third last other same right target label labels "
    "input text output class answer group any no one wrong correct messages".split()
}
_PLAIN |= {
    *"is are in of and or not it called named new my our your csv data file from with to as use predict for "
    "on by using all only two three whose has have".split()
}
_STRICT = re.compile(
    r"\b(?:column|field)s?\s?(?:is|called|named|[:=])?\s?(?:[\"'`](?P<q>[^\"'`]+)[\"'`]|(?P<a>[\w-]+))"
    rf"|(?:[\"'`](?P<r>[^\"'`]+)[\"'`]|\b(?!(?:{'|'.join(sorted(_PLAIN))})\b)(?P<b>[\w-]+)) (?:column|field)\b"
    r"|\b(?P<role>target|input)\s?[:=]\s?[\"'`]?(?P<c>[\w-]+)",
    re.I,
)
_PREDICTED = re.compile(
    rf"\b(?:predict(?:ing|s)?|{_SORTING}\b[^.,;]*?\b(?:by|into))\s+(?:(?:the|its|their|an?|right|correct|proper"
    rf"|one of|our|each)\s+)*(?P<noun>[a-z][\w-]*)"
    r"(?=\s*(?:$|[.,;!?]|\b(?:from|for|of|based|given|with|at|to|in|and|using|by|reach\w*|within)\b))",
    re.I,
)
GENERIC = {
    *"label labels category categories class classes type types tag tags topic topics target targets answer "
    "answers output result right it them kind kinds group groups that this what y "
    "following one correctly outcome value values bucket buckets".split()
}


def _unknown(text: str, reading: Reading, columns: Sequence[str], file: str) -> Reading:
    for match in _STRICT.finditer(text):
        term = next((match[group] for group in ("q", "a", "r", "b", "c") if match[group]), "").strip()
        if not term or term.lower() in _PLAIN or (match["a"] and text[: match.start()].endswith("  ")):
            continue
        before = text[: match.start()]
        asked_input = (match["role"] or "").lower() == "input" or re.search(
            r"(?:\bfrom|\binput|\btext is in|\bread)(?: \w+)?\s*$", before, re.I
        )
        role = "input" if asked_input else "target"
        if f"columns.{role}" not in reading.said:
            question = column_question(
                role,
                f'There is no column "{term}" in {file}. Which column holds {ROLE_WORDS[role]}?',
                nearest(term, columns),
            )
            reading = replace(reading, unclear=dict(reading.unclear) | {f"columns.{role}": question})
    if "columns.target" not in reading.said and "columns.target" not in reading.unclear:
        nouns = tuple(
            match["noun"].lower() for match in _PREDICTED.finditer(text) if match["noun"].lower() not in GENERIC
        )
        reading = replace(reading, nouns=nouns)
    return reading


def nearest(term: str, columns: Sequence[str]) -> list[str]:
    """All columns, those most like a term first."""
    return sorted(columns, key=lambda column: -fuzz.WRatio(term.lower(), column.lower()))


def column_question(role: str, text: str, choices: Sequence[str]) -> Question:
    """The question for one column."""
    return Question(field=f"columns.{role}", text=text, choices=tuple(choices))
