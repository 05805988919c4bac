"""What a person says about pictures and recordings: what is to be told of them, and what cannot be done with them."""

import re
from collections.abc import Sequence

from agents.reading import Reading, Said
from agents.words import quote
from moatelier.contracts import AnyProfile, Kind, Question

NAMES = {"vision": "pictures", "audio": "recordings"}

_PICTURES = r"(?:images?|pictures?|pics|photos?|photographs?|screenshots?|scans)"
_SOUNDS = (
    r"(?:audio|recordings?|sounds?|speech|voices?|(?:voice |sound |audio )clips?|calls|speakers?|spoken|utterances"
    r"|wavs?)"
)
_SPEAKS_OF = {
    "vision": re.compile(rf"(?<!\w){_PICTURES}(?!\w)", re.I),
    "audio": re.compile(rf"(?<!\w)(?:{_SOUNDS}|transcri\w+)(?!\w)", re.I),
}
_WRITE_DOWN = re.compile(
    r"(?<!\w)(?:transcri\w+|speech[- ]to[- ]text|speech recognition|dictat\w+|subtitles?|wer|word (?:error|accuracy)"
    r"|write (?:it |them |that )?down|what(?:'s| is| was| are| were)? (?:being )?(?:said|spoken)"
    r"|what (?:\w+ ){1,2}(?:says?|said|(?:is|are) saying)"
    r"|(?:recogni[sz]\w*|hear|get|write) (?:out )?(?:the |all |every |each )?(?:spoken )?(?:words?|speech|digits"
    r"|numbers|sentences)|(?:exact|right|correct) words?|words? (?:\w+ )?(?:right|correct)\w*)(?!\w)",
    re.I,
)
_SORT = re.compile(
    r"(?<!\w)(?:classif\w+|categori[sz]\w+|keywords?|wake[- ]words?|hot[- ]?words?|emotions?|moods?"
    r"|who(?:'s| is| was)? (?:it is that )?(?:speak|talk)\w*|speaker (?:recognition|identification|classification)"
    r"|(?:recogni[sz]\w*|identif\w+|predict\w*|detect\w*|know|tell)(?: me)? (?:the |which |who |whose )?"
    r"(?:speaker|voice|command|intent|label|class|category|language|accent)s?"
    r"|sort(?:s|ing)? (?:\w+ )*(?:by|into)|(?:label|tag)(?:s|ling|ging)? (?:the |these |my |our |all )?"
    rf"(?:{_SOUNDS}|{_PICTURES}))(?!\w)",
    re.I,
)
_SPEAKER = re.compile(
    r"(?<!\w)(?:who(?:'s| is| was)? (?:speak|talk)\w*|speaker (?:recognition|identification|classification)"
    r"|(?:recogni[sz]\w*|identif\w+|predict\w*|tell|classif\w+|know)(?: me)? (?:the |which |who )?speakers?)(?!\w)",
    re.I,
)
_FIND = r"(?:find|search|retriev|match|locat|rank|pair|belong|fit)(?:e|es|ed|ing|s|al|ches|ching)?|look(?:ing)? up"
_BY = r"(?:captions?|descriptions?|descri(?:be|bes|bed|bing)|texts?|words|sentences?|phrases?|quer(?:y|ies)|titles?)"
_SEARCH = re.compile(
    rf"(?<!\w)(?:(?:{_FIND})(?!\w)[^.;!?]{{0,60}}?(?<!\w){_BY}|{_BY}(?!\w)[^.;!?]{{0,60}}?(?<!\w)(?:{_FIND})"
    rf"|(?:text|caption|word|image|picture|photo)s?[- ](?:to[- ](?:image|picture|text)[- ])?(?:search|retrieval)"
    rf"|(?:search|retrieval) (?:engine |index )?(?:for|of|over|in|through) (?:the |these |my |our |all )?{_PICTURES}"
    r"|retrieval)(?!\w)",
    re.I,
)
_SORT_SEEN = re.compile(
    rf"{_SORT.pattern}|(?<!\w)(?:sort(?:s|ed|ing)?|class(?:es)?|apart|what is (?:shown|seen))(?!\w)", re.I
)
_NO_CLASSES = re.compile(
    r"(?<!\w)(?:caption\w*|describ\w+|generat\w+|draw\w*|segment\w*|bounding box\w*|count(?:s|ing)? (?:the )?\w+s"
    r"|ocr|read (?:out )?the (?:text|words|numbers)|translat\w+|summari[sz]\w+|answer questions)(?!\w)",
    re.I,
)
_ASKED = re.compile(
    r"(?<!\w)(?:answer(?:s|ing)? (?:\w+ ){0,3}questions?|questions? answering|vqa"
    rf"|questions? (?:\w+ ){{0,3}}(?:about|on) (?:\w+ ){{0,2}}{_PICTURES}"
    rf"|ask(?:s|ed|ing)? (?:\w+ ){{0,3}}about (?:\w+ )?{_PICTURES}|(?:talk|chat)(?:s|ing)? about (?:\w+ )?{_PICTURES}"
    r")(?!\w)",
    re.I,
)


def read_senses(text: str, modality: str, file: str) -> Reading:
    """What a text (normalised, names blanked) says about a task on pictures or recordings.

    Args:
        text: The person's words.
        modality: What the file holds.
        file: Its name, for questions.
    """
    reading = _read_kind(text) if modality == "audio" else _read_seen(text)
    other = "audio" if modality == "vision" else "vision"
    if (named := _SPEAKS_OF[other].search(text)) and not _SPEAKS_OF[modality].search(text):
        question = Question(
            field="modality",
            text=f'You said "{named[0]}", and {file} holds {NAMES[modality]}. Is this a task on the {NAMES[modality]}?',
            choices=(f"yes, the {NAMES[modality]}",),
        )
        reading = reading.then(Reading(unclear={"modality": question}))
    kind = reading.said.get("kind")
    if (wish := _NO_CLASSES.search(text)) and not (kind and kind.value in ("retrieval", "chat")):
        told = "sort pictures into classes" if modality == "vision" else "write down what is said, or name classes"
        offered: Sequence[Kind] = ("classification",) if modality == "vision" else ("transcription", "classification")
        question = Question(
            field="kind", text=f'You said "{wish[0]}". I can {told}. Shall I do that?', choices=tuple(offered)
        )
        reading = reading.then(Reading(unclear={"kind": question}))
    return reading


def _read_kind(text: str) -> Reading:
    down, sort = _WRITE_DOWN.search(text), _SORT.search(text)
    if down and not sort:
        return Reading({"kind": Said("transcription", f'You said "{quote(text, *down.span())}".', 0.95)})
    if sort and not down:
        return Reading({"kind": Said("classification", f'You said "{quote(text, *sort.span())}".', 0.95)})
    return Reading()


def _read_seen(text: str) -> Reading:
    search, sort = _SEARCH.search(text), _SORT_SEEN.search(text)
    if (asked := _ASKED.search(text)) and not search and not _SORT.search(text):
        return Reading({"kind": Said("chat", f'You said "{quote(text, *asked.span())}".', 0.95)})
    if search and not sort:
        return Reading({"kind": Said("retrieval", f'You said "{quote(text, *search.span())}".', 0.95)})
    if sort and not search:
        return Reading({"kind": Said("classification", f'You said "{quote(text, *sort.span())}".', 0.95)})
    return Reading()


def wants_speaker(text: str) -> bool:
    """Whether it is to be told who speaks."""
    return bool(_SPEAKER.search(text))


def chosen(messages: Sequence[str], profiles: Sequence[AnyProfile]) -> AnyProfile | Question:
    """Which of several kinds of data in one file is meant, by the latest message that speaks of one alone."""
    by_name = {profile.modality: profile for profile in profiles}
    for message in reversed(messages):
        named = [name for name in by_name if name in _SPEAKS_OF and _SPEAKS_OF[name].search(message)]
        if len(named) == 1:
            return by_name[named[0]]
    told = " and ".join(f"{profile.rows} {NAMES[name]}" for name, profile in by_name.items())
    return Question(
        field="modality",
        text=f"{profiles[0].name} holds {told}. Which shall be learnt from?",
        choices=tuple(f"the {NAMES[name]}" for name in by_name),
    )
