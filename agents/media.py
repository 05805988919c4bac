"""Kind and columns of a task on pictures or recordings: by the words, else by what the data show, else a question."""

from collections.abc import Mapping

from agents.columns import column_question
from agents.kinds import NOUN
from agents.reading import Reading, Said
from agents.scene import Scene
from agents.senses import wants_speaker
from moatelier.contracts import (
    AnyColumns,
    AudioColumns,
    AudioProfile,
    Columns,
    ImageColumns,
    ImageProfile,
    Kind,
    Question,
    Sourced,
)

_LISTED = 5
_NAMES = "The names of the folders or files tell what is in them."

_TOLD: Mapping[Kind, str] = {
    "classification": "their labels",
    "transcription": "what is said in them",
    "retrieval": "their captions",
    "chat": "their labels",
}

_MEASURED: Mapping[str, Mapping[str, Kind]] = {
    "vision": {"recall_at_1": "retrieval", "recall_at_5": "retrieval", "macro_f1": "classification"},
    "audio": {"word_accuracy": "transcription", "macro_f1": "classification"},
}
"""Modality -> the measures that only one of its kinds has."""

Settled = tuple[Sourced[Kind], Sourced[AnyColumns]]


def resolve_media(reading: Reading, scene: Scene) -> Settled | tuple[Question, ...]:
    """Kind and columns, or one question for each thing that is unclear."""
    profile = scene.media
    assert profile is not None, "only called with pictures or recordings"
    if isinstance(profile, ImageProfile):
        kind: Sourced[Kind] | Question = _image_kind(reading, profile)
    else:
        kind = _audio_kind(reading, scene, profile)
    if isinstance(kind, Question):
        return (kind,)
    if not profile.headers and kind.value == "retrieval":
        return (_no_captions(profile),)
    if not profile.headers:
        return _without_table(kind, reading, scene, profile)
    columns = _columns(kind.value, reading, scene, profile)
    return columns if isinstance(columns, tuple) else (kind, columns)


# ---------------------------------------------------------------- kind


def _image_kind(reading: Reading, profile: ImageProfile) -> Sourced[Kind]:
    """Whether pictures are to be found by their captions, or each has one label.

    Labels are meant, unless only captions are there or the words say otherwise.
    """
    guess = profile.columns
    roles: Mapping[str | None, Kind] = {}
    if guess is not None:
        roles = {guess.label: "classification", guess.caption: "retrieval"}
    said = reading.said.get("kind") or _by_target(reading, roles) or _by_measure(reading, "vision")
    if said is not None:
        return Sourced(value=said.value, source=said.source, confidence=said.confidence, reason=said.reason)
    if guess is not None and guess.caption and not guess.label:
        reason = f'Column "{guess.caption}" of {profile.name} has words for each picture, and no column has labels.'
        return Sourced(value="retrieval", source="inferred", confidence=0.8, reason=reason)
    return Sourced(
        value="classification", source="inferred", confidence=1.0, reason=f"{profile.name} holds pictures of classes."
    )


def _no_captions(profile: ImageProfile | AudioProfile) -> Question:
    text = (
        f"{profile.name} has no captions, by which its pictures could be found. Send it with a table `image,caption`, "
        "or shall they be sorted into classes?"
    )
    return Question(field="kind", text=text, choices=("classification",))


def _audio_kind(reading: Reading, scene: Scene, profile: AudioProfile) -> Sourced[Kind] | Question:
    """Whether what is said is to be written down, or each recording has one label."""
    guess = profile.columns
    roles: Mapping[str | None, Kind] = {}
    if guess is not None:
        roles = {guess.text: "transcription", guess.label: "classification", guess.speaker: "classification"}
    said = reading.said.get("kind") or _by_target(reading, roles) or _by_measure(reading, "audio")
    if said is not None:
        return Sourced(value=said.value, source=said.source, confidence=said.confidence, reason=said.reason)
    if guess is not None and bool(guess.text) != bool(guess.label):
        kind: Kind = "transcription" if guess.text else "classification"
        told = "what is said" if guess.text else "one label for each"
        reason = f'Column "{guess.told}" of {profile.name} has {told}.'
        return Sourced(value=kind, source="inferred", confidence=0.8, reason=reason)
    text = (
        f"Shall what is said in the recordings of {profile.name} be written down (transcription), or shall each get "
        "one of a few labels (classification)?"
    )
    return Question(field="kind", text=text, choices=("transcription", "classification"))


def _by_target(reading: Reading, roles: Mapping[str | None, Kind]) -> Said | None:
    """What the column that the person named is for."""
    target = reading.said.get("columns.target")
    kind = roles.get(target.value) if target else None
    if target is None:
        return None
    return Said(kind, target.reason, target.confidence, target.source) if kind else None


def _by_measure(reading: Reading, modality: str) -> Said | None:
    metric = reading.said.get("metric")
    kind = _MEASURED[modality].get(metric.value) if metric else None
    return Said(kind, f"{metric.reason} That is a measure of this kind.", 0.9) if metric and kind else None


# ---------------------------------------------------------------- columns


def _without_table(
    kind: Sourced[Kind], reading: Reading, scene: Scene, profile: ImageProfile | AudioProfile
) -> Settled | tuple[Question, ...]:
    if kind.value == "classification" and profile.modality == "audio" and wants_speaker(scene.words):
        text = f"Nothing in {profile.name} names the speakers as classes. Send it with a table `file,speaker`."
        return (Question(field="columns.target", text=text),)
    labels = list(profile.labels)
    named = ", ".join(labels[:_LISTED]) + (f" and {len(labels) - _LISTED} more" if len(labels) > _LISTED else "")
    reason = f"{_NAMES[:-1]}: {named}." if labels else _NAMES
    return kind, Sourced(value=Columns(), source="inferred", confidence=1.0, reason=reason)


def _columns(
    kind: Kind, reading: Reading, scene: Scene, profile: ImageProfile | AudioProfile
) -> Sourced[AnyColumns] | tuple[Question, ...]:
    noun = NOUN[profile.modality]
    said = _told_apart(reading, profile) if kind == "retrieval" else reading.said
    source = said.get("columns.input") or _seen(_source(profile), f"names the {noun}s", profile)
    target = said.get("columns.target") or _target(kind, scene, profile)
    group = reading.said.get("columns.group")
    questions = []
    if source is None:
        text = f"Which column of {profile.name} names the {noun}s?"
        questions.append(column_question("input", text, _free(reading, profile, target)))
    if target is None:
        told = _TOLD[kind]
        text = f"Which column of {profile.name} holds {told}?"
        questions.append(column_question("target", text, _free(reading, profile, source)))
    if source is None or target is None:
        return tuple(questions)
    settled = [each for each in (source, target, group) if each is not None]
    return Sourced(
        value=_made(kind, profile, source.value, target.value, group.value if group else None),
        source="user" if all(each.source == "user" for each in settled) else "inferred",
        confidence=min(each.confidence for each in settled),
        reason=" ".join(each.reason for each in settled),
    )


def _told_apart(reading: Reading, profile: ImageProfile | AudioProfile) -> Mapping[str, Said]:
    """The columns that were named; either may be sought by the other, and the file tells which is which."""
    image = _source(profile)
    named = [reading.said[role] for role in ("columns.input", "columns.target") if role in reading.said]
    if image is None:
        return reading.said
    pictures, captions = ([each for each in named if (each.value == image) == wanted] for wanted in (True, False))
    sorted_ = {"columns.input": pictures, "columns.target": captions}
    return {role: found[0] for role, found in sorted_.items() if found}


def _source(profile: ImageProfile | AudioProfile) -> str | None:
    guess = profile.columns
    return guess.image if isinstance(guess, ImageColumns) else guess.audio if guess else None


def _target(kind: Kind, scene: Scene, profile: ImageProfile | AudioProfile) -> Said | None:
    guess = profile.columns
    if isinstance(guess, AudioColumns):
        if kind == "transcription":
            return _seen(guess.text or guess.label, "tells what is said", profile)
        if wants_speaker(scene.words) and guess.speaker:
            return Said(guess.speaker, f'You want to know who speaks: "{guess.speaker}" tells it.', 0.9, "inferred")
        return _seen(guess.label or guess.text, "holds the labels", profile)
    if kind == "retrieval":
        return _seen(guess.caption if guess else None, "holds the captions", profile)
    return _seen(guess.label if guess else None, "holds the labels", profile)


def _seen(column: str | None, role: str, profile: ImageProfile | AudioProfile) -> Said | None:
    return Said(column, f'By its name, "{column}" of {profile.name} {role}.', 0.9, "inferred") if column else None


def _free(reading: Reading, profile: ImageProfile | AudioProfile, other: Said | None) -> list[str]:
    taken = reading.excluded | ({other.value} if other else set())
    return [name for name in profile.headers if name not in taken]


def _made(
    kind: Kind, profile: ImageProfile | AudioProfile, source: str, target: str, group: str | None
) -> ImageColumns | AudioColumns:
    """The columns with these roles, and the others as they seem to be."""
    guess, roles = profile.columns, {source, target}

    def other(name: str | None) -> str | None:
        return name if name not in roles else None

    if isinstance(profile, ImageProfile):
        seen = guess if isinstance(guess, ImageColumns) else ImageColumns(image=source)
        told = {"caption" if kind == "retrieval" else "label": target}
        return ImageColumns(image=source, **told, group=group or other(seen.group), licence=other(seen.licence))
    heard = guess if isinstance(guess, AudioColumns) else AudioColumns(audio=source)
    return AudioColumns(
        audio=source,
        text=target if kind == "transcription" else None,
        label=target if kind == "classification" else None,
        speaker=other(heard.speaker),
        source=group or other(heard.source),
        licence=other(heard.licence),
    )
