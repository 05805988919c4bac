"""A person's messages, read: the request by the grammar alone, later ones also as answers to what was asked."""

import re
from collections.abc import Sequence
from dataclasses import replace

from rapidfuzz import fuzz

from agents.choices import name_reading, read_choices, read_name
from agents.columns import ROLE_WORDS, read_columns, said_column
from agents.cues import metrics_named
from agents.files import blank_files, read_files
from agents.goals import read_goal
from agents.limits import MAX_TRIALS, read_limits
from agents.mentions import Mention, mentions
from agents.policies import PRIVATE_MEANS, TOO_LONG_MEANS, Policy, read_policies
from agents.reading import Reading, Said, joined
from agents.scene import Scene
from agents.spaces import read_search
from agents.words import NUMBER, normalise, number
from moatelier.contracts import Question

_ORDINALS = {
    word: place for place, word in enumerate("first second third fourth fifth sixth seventh eighth ninth tenth".split())
}
_POLITE = (
    r"(?:please|then|i mean|i think|take|use|it's|it is|that's|let's take|let's use|i'd say|i would take|make it"
    r"|go with|ok|okay|yes)?[,:]? ?"
)
_ORDINAL = re.compile(
    rf"{_POLITE}(?:the |number |no\.? ?|option |choice |answer |#|\()*(?:(?P<word>{'|'.join(_ORDINALS)}|last)"
    rf"|(?P<digit>\d)(?:st|nd|rd|th)?|(?P<spelt>{NUMBER}))"
    r"(?: (?:one|option|choice|column|answer|of them))?(?:[ ,]*please)?\W*",
    re.I,
)
_YES = re.compile(
    r"\W*(?:yes|yep|yeah|yup|y|sure|ok|okay|correct|exactly|that's (?:right|it|fine|ok)|go ahead|do (?:it|that"
    r"|so)|please do|fine|of course|right|agreed|you (?:may|can))\b[\w ,'!.]{0,30}",
    re.I,
)
_UP_TO_YOU = re.compile(
    r"\b(?:you (?:decide|choose|pick)|up to you|what(?:ever)? you (?:think|like|want|suggest|recommend)"
    r"|whatever|(?:i )?do(?:n't| not) (?:know|care|mind)|no idea|your (?:choice|call)|not sure|no preference"
    r"|does(?:n't| not) matter|(?:the )?defaults?|any(?: of them| is fine| will do)?|as you like)\b",
    re.I,
)
_NUMBERED = re.compile(r"(?:^|\n|(?<=[\s,;]))\(?(?P<n>[1-9])[.):]\s+")


LONGEST = 4000
"""Characters; what is longer is no request but data."""


def read_request(message: str, scene: Scene, *, asked: frozenset[str] = frozenset()) -> Reading:
    """What a message says by itself.

    Args:
        message: The person's words as they came.
        scene: The files and the offer.
        asked: The fields that were just asked for, so that a number alone can be a goal.
    """
    if len(message) > LONGEST:
        why = (
            f"The message has {len(message)} characters; I read up to {LONGEST}. Say it more briefly, and send "
            f"data as a file."
        )
        return Reading(unclear={"request": Question(field="request", text=why)})
    text = normalise(message)
    files = read_files(text, scene)
    named, rest = read_name(blank_files(text, scene), scene.bases)
    search, rest = read_search(rest, scene.defaults.methods)
    return joined(
        [
            files,
            named,
            search,
            read_goal(rest, asked="goal" in asked),
            read_limits(rest, asked="budget" in asked),
            read_policies(rest),
            read_choices(rest, scene.bases, scene.defaults.methods, scene.modality, scene.file),
            read_columns(rest, scene.columns, scene.file),
        ]
    )


def read_answer(message: str, questions: Sequence[Question], scene: Scene) -> Reading:
    """What a message says as an answer to questions: `92%`, `the second one`, `intent`, `1. intent 2. 92 %`."""
    if len(message) > LONGEST:
        return read_request(message, scene)
    if pieces := _numbered(message, len(questions)):
        return joined(read_answer(piece, [questions[place - 1]], scene) for place, piece in pieces)
    reading = read_request(message, scene, asked=frozenset(question.field for question in questions))
    for question in questions:
        answered = _answer(message, question, questions, reading, scene)
        if answered:
            reading = reading.then(answered)
    return _left_open(message, questions, reading, scene)


def _numbered(message: str, count: int) -> list[tuple[int, str]]:
    marks = list(_NUMBERED.finditer(message))
    places = [int(mark["n"]) for mark in marks]
    if (
        len(marks) < 2
        or places != list(range(1, len(marks) + 1))
        or len(marks) > count
        or message[: marks[0].start()].strip()
    ):
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(message)]
    return [
        (place, message[mark.end() : end].strip(" ,;\n")) for place, mark, end in zip(places, marks, ends, strict=True)
    ]


def _answer(
    message: str, question: Question, questions: Sequence[Question], reading: Reading, scene: Scene
) -> Reading | None:
    """What the message says to one question beyond what the grammar read in it."""
    text = normalise(message)
    if question.field.startswith("columns."):
        return _column_answer(text, question, questions, reading, scene)
    if question.field == "goal" and (goal := _goal_answer(text, question, reading)):
        return goal
    if choice := _choice(text, question, questions):
        return _chosen(question.field, choice, text)
    if question.field == "trials" and "trials" not in reading.said:
        match = re.fullmatch(rf"(?P<n>{NUMBER})\W*", text, re.I)
        if match and 1 <= number(match["n"]) <= MAX_TRIALS:
            return _chosen("trials", str(int(number(match["n"]))), text)
    if question.field == "name" and "name" not in reading.said and len(text.split()) <= 4:
        return name_reading(text.strip(" .\"'`"), text)
    return None


# ---------------------------------------------------------------- choices


def _choice(text: str, question: Question, questions: Sequence[Question]) -> str | None:
    """The choice of a question that an answer picks, by its words or its place."""
    choices = question.choices
    words = text.casefold().strip(" .!\"'`")
    if same := [choice for choice in choices if normalise(choice).casefold() == words]:
        return same[0]
    if len(choices) == 1 and (len(questions) == 1 or question.field in text) and _YES.fullmatch(text):
        return choices[0]
    if [other for other in questions if other.choices] == [question] and (place := _place(text, question)) is not None:
        return choices[place]
    inside = [
        choice for choice in choices if re.search(rf"(?<!\w){re.escape(normalise(choice).casefold())}(?!\w)", words)
    ]
    if len(inside) == 1 and not re.search(r"\b(?:not|no|n't|never)\b|n't", words):
        return inside[0]
    return None


def _place(text: str, question: Question) -> int | None:
    match = _ORDINAL.fullmatch(text)
    if not match:
        return None
    if match["word"]:
        place = len(question.choices) - 1 if match["word"].lower() == "last" else _ORDINALS[match["word"].lower()]
    elif all(choice.isdigit() for choice in question.choices):
        return None  # a digit is then the answer itself, not its place
    else:
        place = int(number(match["digit"] or match["spelt"])) - 1
    return place if 0 <= place < len(question.choices) else None


def _chosen(field: str, choice: str, words: str) -> Reading | None:
    """The value that a choice stands for."""
    same = choice.casefold() == words.casefold().strip(" .")
    reason = f'You answered "{words.strip()}"{"" if same else f": {choice}"}.'
    if field in ("goal", "budget"):
        read = read_goal(choice, asked=True) if field == "goal" else read_limits(choice, asked=True)
        return Reading(
            {name: replace(said, reason=reason, confidence=1.0, chosen=True) for name, said in read.said.items()}
        )
    if field == "search":
        return read_search(choice, ())[0]
    value: str | int = choice
    if field == "private":
        policies: list[Policy] = [policy for policy in PRIVATE_MEANS if choice.startswith(policy)]
        value, reason = policies[0], f'You answered "{words.strip()}": {PRIVATE_MEANS[policies[0]]}.'
    elif field == "too_long":
        reason = f'You answered "{words.strip()}": {TOO_LONG_MEANS[choice]}.'
    elif field in ("trials", "seed"):
        value = int(choice)
    return Reading({field: Said(value, reason, chosen=True)})


def _goal_answer(text: str, question: Question, reading: Reading) -> Reading | None:
    """`macro F1` or `the 90 %` names one of the goals that were offered."""
    metric, target = reading.said.get("metric"), reading.said.get("target")
    if metric and target:
        return None
    offered = [(choice, read_goal(normalise(choice)).said) for choice in question.choices]
    words = {name for _, name in metrics_named(text)}
    if metric or target:
        fits = [
            choice
            for choice, said in offered
            if (
                not metric
                or ("metric" in said and said["metric"].value == metric.value and said["metric"].value in words)
            )
            and (not target or ("target" in said and said["target"].value == target.value))
        ]
        # "95 %" alone must not turn an offered example into a choice of measure.
        same_metric = len({said["metric"].value for _, said in offered if "metric" in said}) == 1
        return _chosen("goal", fits[0], text) if len(fits) == 1 and not same_metric else None
    return None


# ---------------------------------------------------------------- columns


def _column_answer(
    text: str, question: Question, questions: Sequence[Question], reading: Reading, scene: Scene
) -> Reading | None:
    """A column named alone, by its place among the choices, or in the order of the questions."""
    role = question.field.removeprefix("columns.")
    if said := reading.said.get(question.field):
        return Reading({question.field: replace(said, chosen=True)})
    if choice := _choice(text, question, questions):
        reason = f'You answered "{text.strip()}": "{choice}" is {ROLE_WORDS[role]}.'
        return Reading({question.field: Said(choice, reason, chosen=True)})
    taken = {said.value for name, said in reading.said.items() if name.startswith("columns.")}
    named = [m for m in mentions(text, scene.columns) if m.column not in taken | reading.excluded]
    unique = list({mention.column: mention for mention in reversed(named)}.values())[::-1]
    open_roles = [q.field for q in questions if q.field.startswith("columns.") and q.field not in reading.said]
    if len(unique) == len(open_roles) and question.field in open_roles:
        return _named(unique[open_roles.index(question.field)], role)
    if len(unique) == 1 and open_roles == [question.field]:
        return _named(unique[0], role)
    near = sorted(((fuzz.ratio(text.lower(), column.lower()), column) for column in scene.columns), reverse=True)
    if near and near[0][0] >= 75 and (len(near) == 1 or near[0][0] - near[1][0] >= 10) and len(open_roles) == 1:
        return _named(Mention(near[0][1], 0, len(text), near[0][0], text), role)
    return None


def _named(mention: Mention, role: str) -> Reading:
    return Reading({f"columns.{role}": replace(said_column(mention, role), chosen=True)})


def _left_open(message: str, questions: Sequence[Question], reading: Reading, scene: Scene) -> Reading:
    """`You decide` takes the best guess or the default, except for the goal, which is the person's alone."""
    if not _UP_TO_YOU.search(normalise(message)) or len(message.split()) > 12:
        return reading
    for question in questions:
        value = _own_choice(question, scene)
        if value is not None and question.field not in reading.said:
            field = {"budget": "seconds"}.get(question.field, question.field)
            said = Said(value, f'You left it to me ("{message.strip()}"): {value}.', 0.6, "inferred", chosen=True)
            reading = reading.then(Reading({field: said}))
    return reading


def _own_choice(question: Question, scene: Scene) -> str | float | None:
    fixed: dict[str, str | float] = {
        "budget": scene.defaults.seconds,
        "trials": scene.defaults.trials,
        "private": "allow" if scene.media else "redact",
        "too_long": "drop" if scene.media else "refuse",
        "method": question.choices[0] if question.choices else scene.defaults.methods[0],
        "base": scene.defaults.base,
        "seed": 0,
    }
    if question.field in fixed:
        return fixed[question.field]
    if question.field.startswith("columns.") and question.choices:
        return question.choices[0]
    return None
