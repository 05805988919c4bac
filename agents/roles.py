"""Kind and columns of a task: what the person said, else what the file's profile shows, else a question."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from agents.columns import GENERIC, ROLE_WORDS, column_question, nearest
from agents.kinds import KINDS, LIKED
from agents.proposals import is_quoted
from agents.reading import Reading, Said
from agents.scene import Scene
from moatelier.contracts import ColumnGuess, Columns, DataProfile, Kind, Question, Sourced

Role = Literal["input", "target", "messages", "group", "rejected", "thumb"]
SURE = 0.6
"""A guess below this is asked."""
LABEL_CHARS = 80
"""No label is longer."""
MARGIN = 0.1
"""The best guess must lead the next by this much."""

_GENERIC_COLUMNS = GENERIC | {"y", "intent", "label_name", "gold", "truth"}
_KIND_WORDS: dict[Kind, str] = {"classification": "one label for each text", "chat": "conversations with answers"}
_KIND_WORDS |= {"preference": "pairs of answers of which one is preferred", "thumbs": "answers with a thumb up or down"}
_ROW_WORDS: dict[Kind, str] = {"classification": "a text with its label", "chat": "a question with its answer"}


# ---------------------------------------------------------------- kind


def resolve_kind(reading: Reading, scene: Scene, profile: DataProfile) -> Sourced[Kind] | Question:
    """Whether the rows have labels or are conversations."""
    said = reading.said.get("kind")
    seen, why = _seen_kind(reading, profile)
    answers = seen in LIKED and said is not None and said.value == "chat" and not said.chosen
    if seen and (said is None or said.value == seen or answers):
        reason = f"{said.reason} {why}" if said else why
        return Sourced(
            value=seen, source=said.source if said else "inferred", confidence=1.0 if said else 0.9, reason=reason
        )
    if said and (said.chosen or seen is None):
        return Sourced(value=said.value, source=said.source, confidence=said.confidence, reason=said.reason)
    if said and seen:
        text = (
            f"{said.reason} That sounds like {_KIND_WORDS[said.value]}, but the file says otherwise: {why} Which is it?"
        )
        return Question(field="kind", text=text, choices=("classification", "chat"))
    proposed = scene.proposal.kind
    if proposed and proposed.value in KINDS["text"] and is_quoted(proposed.quote, scene.words):
        reason = f'The planner endpoint read this in "{proposed.quote}".'
        return Sourced(value=proposed.value, source="inferred", confidence=0.6, reason=reason)
    text = (
        f"Is {profile.name} to be learnt as classification ({_KIND_WORDS['classification']}) or as chat "
        f"({_KIND_WORDS['chat']})?"
    )
    return Question(field="kind", text=text, choices=("classification", "chat"))


def _seen_kind(reading: Reading, profile: DataProfile) -> tuple[Kind | None, str]:
    """The kind that the data show; a target that the person named decides, since a file may allow both."""
    kind = profile.kind
    if kind in LIKED:
        return kind, f"{profile.name} holds {_KIND_WORDS[kind]}."
    target = reading.said.get("columns.target")
    column = next((each for each in profile.columns if target and each.name == target.value), None)
    if column and column.filled:
        few = column.unique <= max(column.filled // 2, 1) and column.max_chars <= LABEL_CHARS
        kind = "classification" if few else "chat"
        shown = f"{column.unique} distinct values, so a row is {_ROW_WORDS[kind]}."
        return kind, f'"{column.name}" has {shown}'
    return kind, f"{profile.name} holds {_KIND_WORDS[kind]}." if kind else ""


# ---------------------------------------------------------------- columns


def resolve_columns(
    reading: Reading, scene: Scene, profile: DataProfile, kind: Kind
) -> Sourced[Columns] | tuple[Question, ...]:
    """Which column plays which role, or one question for each role that is unclear."""
    if kind in LIKED:
        reading = _without_likings(reading, profile)
    liking: dict[Kind, tuple[Role, ...]] = {"preference": ("rejected",), "thumbs": ("thumb",)}
    roles: tuple[Role, ...] = ("input", "target", *liking.get(kind, ()))
    if kind == "chat" and (conversation := _conversation(reading, scene, profile)):
        if isinstance(conversation, Question):
            return (conversation,)
        return _columns({"messages": conversation}, reading, profile)
    settled: dict[Role, Said] = {}
    questions: list[Question] = []
    for role in sorted(roles, key=lambda each: f"columns.{each}" not in reading.said):
        taken = {said.value for said in settled.values()}
        found = reading.unclear.get(f"columns.{role}") or _settle(role, reading, scene, profile, taken)
        if isinstance(found, Question):
            if f"columns.{role}" in reading.said:
                return (found,)  # a doubt about one role; the other depends on it
            questions.append(found)
        else:
            settled[role] = found
    if questions:
        return tuple(questions)
    return _columns(settled, reading, profile)


def _without_likings(reading: Reading, profile: DataProfile) -> Reading:
    """`learn from the thumbs` and `prefer the chosen` name no roles: the columns' own names have told."""
    roles = {guess.column: f"columns.{guess.role}" for guess in profile.guesses}
    said = {
        name: said
        for name, said in reading.said.items()
        if not name.startswith("columns.") or said.chosen or roles.get(said.value, name) == name
    }
    return replace(reading, said=said)


def _columns(settled: dict[Role, Said], reading: Reading, profile: DataProfile) -> Sourced[Columns]:
    group = reading.said.get("columns.group")
    best = next(iter(_guesses("group", reading, profile, {said.value for said in settled.values()})), None)
    if group is None and best and best.confidence >= 0.8:
        group = _from_guess(best)
    everything = settled | ({"group": group} if group else {})
    names = {role: said.value for role, said in everything.items()}
    return Sourced(
        value=Columns.model_validate(names),
        source="user" if all(said.source == "user" for said in settled.values()) else "inferred",
        confidence=min(said.confidence for said in settled.values()),
        reason=" ".join(said.reason for said in everything.values()),
    )


def _settle(role: Role, reading: Reading, scene: Scene, profile: DataProfile, taken: set[str]) -> Said | Question:
    if said := reading.said.get(f"columns.{role}"):
        return _doubt(said, role, reading, profile) or said
    guesses = _guesses(role, reading, profile, taken)
    if (
        role == "target"
        and reading.nouns
        and (question := _other_noun(reading.nouns, guesses, profile, reading, taken))
    ):
        return question
    best = guesses[0] if guesses else None
    if best and best.confidence >= SURE and (len(guesses) == 1 or best.confidence - guesses[1].confidence >= MARGIN):
        return _from_guess(best)
    free = [name for name in scene.columns if name not in taken and name not in reading.excluded]
    if len(free) == 1 and taken:
        return Said(free[0], f'"{free[0]}" is the only other column, so it is {ROLE_WORDS[role]}.', 0.9, "inferred")
    proposed = getattr(scene.proposal.columns, role) if scene.proposal.columns else None
    if best and proposed == best.column and best.confidence >= 0.3:
        return Said(
            proposed,
            f'The file suggests "{proposed}" as {ROLE_WORDS[role]}, and the planner endpoint agrees.',
            0.65,
            "inferred",
        )
    choices = list(
        dict.fromkeys([name for name in (proposed,) if name in free] + [guess.column for guess in guesses] + free)
    )
    return column_question(role, f"Which column of {profile.name} holds {ROLE_WORDS[role]}?", choices)


def _from_guess(guess: ColumnGuess) -> Said:
    because = f": {guess.reason.rstrip('.')}" if guess.reason else ""
    return Said(
        guess.column,
        f'By the data, "{guess.column}" is {ROLE_WORDS[guess.role]}{because}.',
        guess.confidence,
        "inferred",
    )


def _guesses(role: Role, reading: Reading, profile: DataProfile, taken: set[str]) -> list[ColumnGuess]:
    named = taken | {
        said.value for name, said in reading.said.items() if name.startswith("columns.") and name != f"columns.{role}"
    }
    return [guess for guess in profile.guesses if guess.role == role and guess.column not in reading.excluded | named]


def _doubt(said: Said, role: Role, reading: Reading, profile: DataProfile) -> Question | None:
    """A target that the data show to be the text, or the other way round, is asked once more."""
    if said.chosen or role not in ("input", "target"):
        return None
    other: Role = "input" if role == "target" else "target"
    if f"columns.{other}" in reading.said:
        return None
    looks = next((guess for guess in profile.guesses if guess.role == other and guess.column == said.value), None)
    fits = next((guess for guess in profile.guesses if guess.role == role and guess.column != said.value), None)
    if looks is None or fits is None or looks.confidence < 0.7 or fits.confidence < SURE:
        return None
    text = (
        f'{said.reason} By the data, "{said.value}" is rather {ROLE_WORDS[other]}. Which column holds '
        f"{ROLE_WORDS[role]}?"
    )
    return column_question(role, text, (fits.column, said.value))


def _other_noun(
    nouns: tuple[str, ...], guesses: list[ColumnGuess], profile: DataProfile, reading: Reading, taken: set[str]
) -> Question | None:
    """`predict the priority` where no column is named like that: the data's own guess may be another thing."""
    if not guesses:
        return None
    own_words = set(guesses[0].column.lower().replace("-", "_").split("_"))
    if own_words & _GENERIC_COLUMNS - {"intent"} or (
        "intent" in own_words and nouns[0] in ("topic", "purpose", "category")
    ):
        return None
    names = [
        column.name for column in profile.columns if column.name not in taken and column.name not in reading.excluded
    ]
    text = f'You want to predict "{nouns[0]}", and no column of {profile.name} is named like that. Which one holds it?'
    return column_question("target", text, list(dict.fromkeys([guesses[0].column, *nearest(nouns[0], names)])))


def _conversation(reading: Reading, scene: Scene, profile: DataProfile) -> Said | Question | None:
    """The column with conversations; None when the rows have an input and an answer in two columns instead."""
    if said := reading.said.get("columns.messages"):
        return said
    guesses = _guesses("messages", reading, profile, set())
    named = reading.said.get("columns.input")
    if guesses and (guesses[0].confidence >= SURE or (named and named.value == guesses[0].column)):
        return _from_guess(guesses[0])
    if (
        "columns.target" in reading.said
        or any(guess.role == "target" for guess in profile.guesses)
        or len(scene.columns) > 1
    ):
        return None
    choices: Sequence[str] = scene.columns
    return column_question("messages", f"Which field of {profile.name} holds {ROLE_WORDS['messages']}?", choices)
