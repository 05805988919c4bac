"""File names in a request: kept from being read as wishes, and compared with the files that were sent."""

import re

from rapidfuzz import fuzz

from agents.reading import Reading, Said
from agents.scene import Scene
from agents.words import FILE_NAME, blank, lead
from moatelier.contracts import Question

_TEST = re.compile(
    r"\b(?:test\w*|evaluat\w+|validat\w+|verif\w+|check\w*|hold[- ]?outs?|locked|scor\w+|measur\w+"
    r"|judg\w+)(?: (?:it|rows?|set|data|file|the|model|result))*(?: ?(?:on|against|with|using|from|in|by|is|="
    r"|:))*(?: (?:the|file|rows in|rows of))* ?$",
    re.I,
)
_TEST_AFTER = re.compile(
    r"\s?(?:is|as|holds|contains|has|for)\s?(?:the|a|my|our)?\s?(?:locked |held-out )?(?:test|hold-?out"
    r"|evaluation|validation|testing)",
    re.I,
)


def blank_files(text: str, scene: Scene) -> str:
    """The text without file names: `accuracy_95%.csv` is no goal."""
    for profile in (scene.profile, scene.test_profile):
        if profile:
            text = blank(text, [match.span() for match in re.finditer(re.escape(profile.name), text, re.I)])
    return blank(text, [match.span() for match in FILE_NAME.finditer(text)])


def read_files(text: str, scene: Scene) -> Reading:
    """Whether the files that a text names are the ones that were sent."""
    reading = Reading()
    for match in FILE_NAME.finditer(text):
        name = match[0].strip("\"'").replace("\\", "/").rsplit("/", 1)[-1]
        for_test = bool(_TEST.search(lead(text, match.start())) or _TEST_AFTER.match(text, match.end()))
        if question := _mismatch(name, for_test, scene):
            reading = reading.then(Reading(unclear={question.field: question}))
    if re.search(
        r"\b(?:without|no|forget|ignore) (?:a |the )?(?:separate )?test file\b|\bsplit (?:them|it|some"
        r"|the (?:test|locked) rows) off\b",
        text,
        re.I,
    ):
        reading = reading.then(Reading({"test_file": Said("split", "You want the locked rows split off.")}))
    return reading


def _mismatch(name: str, for_test: bool, scene: Scene) -> Question | None:
    train = scene.profile.name if scene.profile else None
    test = scene.test_profile.name if scene.test_profile else None
    is_train, is_test = _same(name, train), _same(name, test)
    if train is None or (is_test and (for_test or not is_train)) or (is_train and not for_test):
        return None
    if is_train and for_test:
        text = (
            f"{name} is the file to train on, so its rows cannot be the locked test. Shall I split locked rows off it?"
        )
        return Question(field="test_file", text=text, choices=("split them off",) if test is None else (f"use {test}",))
    if for_test and test is None:
        text = f"{name} was not sent. Send it as the test file, or shall I split the locked rows off {train}?"
        return Question(field="test_file", text=text, choices=("split them off",))
    sent, field = (test, "test_file") if for_test else (train, "train_file")
    return Question(
        field=field,
        text=f"You named {name}, but the file that was sent is {sent}. Shall I use {sent}?",
        choices=(f"use {sent}",),
    )


def _same(name: str, sent: str | None) -> bool:
    return sent is not None and fuzz.ratio(name.casefold(), sent.rsplit("/", 1)[-1].casefold()) >= 90
