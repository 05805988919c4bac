"""Recordings as rows, with what is said in them or with their labels: from a table, from folders, from file names."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from moatelier.contracts import AudioColumns, AudioGoal, RowProblem
from moatelier.errors import DataError, InvalidRequest
from moatelier.ids import digest_bytes, digest_json
from modalities.audio.config import RATE
from modalities.audio.levels import is_silent, trim
from modalities.audio.sound import Sound, decode_sound, media
from modalities.files import Files
from modalities.listing import (
    guess_roles,
    media_in,
    parts_in,
    read_media,
    require_columns,
    require_part,
    table_in,
    within,
)
from modalities.text.reading import Record, Table, as_text, parse_table, place
from modalities.text.rows import text_problem

_ROLES: dict[str, tuple[str, ...]] = {
    "audio": ("audio", "file", "path", "filename", "file_name", "filepath", "audio_path", "recording", "clip", "wav"),
    "text": ("text", "transcript", "transcription", "sentence", "words", "utterance", "said"),
    "label": ("label", "class", "category", "target", "keyword", "emotion", "command", "intent"),
    "speaker": ("speaker", "speaker_id", "client_id", "voice", "user", "actor", "person"),
    "source": ("source", "session", "call", "group", "recording_id", "episode", "document"),
    "licence": ("licence", "license"),
}
"""Role -> names of columns that usually play it, best first."""
_NAMED = re.compile(r"(?P<word>[^\W\d_][^_]*|\d+)_(?P<speaker>[^_]+)_(?P<take>\d+)")
"""Such as `7_theo_12.wav`: the word, who says it, how often before. So the Free Spoken Digit Dataset is named."""
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Hearing:
    """What a recording is like.

    Attributes:
        seconds: Its length.
        inner_s: Its length without the silence at its ends.
        rate: Samples a second, as it was recorded.
        channels: As it was recorded.
        clipped: Share of samples at full scale.
        silent: Whether nothing in it is louder than silence.
    """

    seconds: float
    inner_s: float
    rate: int
    channels: int
    clipped: float
    silent: bool


@dataclass(frozen=True)
class AudioRow:
    """One recording.

    Attributes:
        number: Row in its table, or place among the sorted recordings, from 1.
        audio: Digest of the artifact with the encoded recording; empty when `problem` is set.
        samples: Digest of what is heard: 16 bits at 16 kHz, one channel.
        text: What is said.
        label: Its class, where that is the goal.
        speaker: Who speaks.
        source: What it was cut from.
        licence: As the table says.
        seconds: Its length.
        file: What the owner calls the folder, archive or table.
        path: The recording's path within, or "data URI".
        line: The table's line, from 1.
        problem: Why the row cannot be used at all.
        hearing: What it is like; None once rows were written and parsed.
    """

    number: int
    audio: str = ""
    samples: str = ""
    text: str | None = None
    label: str | None = None
    speaker: str | None = None
    source: str | None = None
    licence: str | None = None
    seconds: float = 0.0
    file: str = ""
    path: str = ""
    line: int = 0
    problem: RowProblem | None = None
    hearing: Hearing | None = None

    @property
    def group(self) -> None:
        """None: recordings belong together in several ways at once, see `modalities.audio.splits`."""
        return None

    @property
    def target(self) -> str:
        """What is to be told of it."""
        return (self.label if self.label is not None else self.text) or ""

    @property
    def id(self) -> str:
        """16 hex digits, a hash of samples and target: equal content has equal ids."""
        return digest_json([self.samples, self.text, self.label])[:16]

    @property
    def place(self) -> str:
        """File, row and the recording's path, for messages."""
        where = place(self.file, self.number, self.line)
        return f"{where}: {self.path}" if self.path else where


@dataclass(frozen=True)
class Listed:
    """A row whose recording has not been heard; `source` is its path within the files, or a data URI."""

    row: AudioRow
    source: str


def list_rows(
    files: Files, goal: AudioGoal, columns: AudioColumns | None, part: str | None, table: Table | None
) -> list[Listed]:
    """The rows there are, without decoding any recording.

    Args:
        files: Where the recordings lie.
        goal: What is to be told of them.
        columns: Of the table; None takes what they seem to be.
        part: Only what lies in this folder, or in the table of this name.
        table: One that came beside the files; None takes one among them. Without any, folders name the classes, or the
            files' names say word and speaker.

    Raises:
        DataError: There are no recordings, nothing says what is in them, several tables, or a column is missing.
    """
    if table is not None:
        return _from_table(table, "", goal, columns)
    if path := table_in(files, media(), part, columns is not None):
        return _from_table(parse_table(files.read(path), f"{files.name}: {path}"), path, goal, columns)
    return _from_names(files, goal, part)


def guess_columns(table: Table) -> AudioColumns | None:
    """What the columns seem to be, by their names; None when none could be the recording or none tells of it."""
    found = guess_roles(table, _ROLES)
    if found["audio"] is None or not (found["text"] or found["label"]):
        return None
    return AudioColumns.model_validate(found)


def hear(files: Files, listed: Listed, keep: Callable[[bytes], str]) -> AudioRow:
    """Decode a row's recording and keep it as it came; a row whose recording cannot be used gets its `problem`."""
    row = listed.row
    if row.problem is not None:
        return row
    try:
        data = read_media(files, listed.source, row.place, media())
        sound = decode_sound(data, row.place)
    except InvalidRequest as error:  # a DataError is one too
        issue = RowProblem(row=row.number, line=row.line, field="audio", reason=error.what, remedy=error.remedy)
        return replace(row, problem=issue)
    heard = np.rint(sound.samples * 32767).astype("<i2").tobytes()
    return replace(
        row,
        audio=keep(data),
        samples=digest_bytes(heard),
        seconds=round(sound.seconds, 3),
        hearing=_hearing(sound),
    )


def _hearing(sound: Sound) -> Hearing:
    start, stop = trim(sound.samples)
    return Hearing(
        sound.seconds, (stop - start) / RATE, sound.rate, sound.channels, sound.clipped, is_silent(sound.samples)
    )


# ---------------------------------------------------------------- names


def _from_names(files: Files, goal: AudioGoal, part: str | None) -> list[Listed]:
    require_part(files, media(), part)
    depth = 1 if parts_in(files, media()) else 0
    chosen = [path for path in media_in(files, media()) if part is None or path.startswith(f"{part}/")]
    if not chosen:
        raise DataError(
            "There are no recordings.", where=files.name, remedy=f"Known endings are {', '.join(media().suffixes)}."
        )
    rows = [_named(files.name, number, path, depth, goal) for number, path in enumerate(chosen, start=1)]
    if all(listed.row.problem for listed in rows):
        raise DataError(
            "Nothing says what is in the recordings: no table, no folders, no file names.",
            where=files.name,
            remedy="Add a table `file,text,speaker`, or put each class's recordings into a folder of its name.",
        )
    return rows


def _named(name: str, number: int, path: str, depth: int, goal: AudioGoal) -> Listed:
    folders, stem = path.split("/")[depth:-1], PurePosixPath(path).stem
    match = _NAMED.fullmatch(stem)
    word = folders[0].replace("_", " ") if folders else match["word"] if match else None
    if word is not None and match and word.isdecimal() and len(word) == 1:
        word = _DIGITS[int(word)]
    if word is None:
        issue = RowProblem(
            row=number,
            field="text",
            reason="Neither a folder nor the file's name says what is in the recording.",
            remedy="Name it as `word_speaker_1.wav`, move it into its class's folder, or delete it.",
        )
        return Listed(AudioRow(number, file=name, path=path, problem=issue), path)
    row = AudioRow(
        number, text=word, speaker=_speaker(stem, folders[0] if folders else None, match), file=name, path=path
    )
    return Listed(_for_goal(row, goal), path)


def _speaker(stem: str, folder: str | None, match: re.Match[str] | None) -> str | None:
    # Speech Commands: `<speaker>_nohash_<take>.wav`, in a folder for each word.
    voice, found, _ = stem.partition("_nohash_")
    if found:
        return voice
    return match["speaker"] if match and folder in (None, match["word"]) else None


# ---------------------------------------------------------------- tables


def _from_table(table: Table, path: str, goal: AudioGoal, columns: AudioColumns | None) -> list[Listed]:
    chosen = columns or guess_columns(table)
    if chosen is None:
        raise DataError(
            "No column names the recordings, or none what is in them.",
            where=table.name,
            remedy=f"Name them; the columns are {', '.join(table.columns)}.",
        )
    require_columns(table, chosen.model_dump())
    target = _target(chosen, goal, table)
    folder = PurePosixPath(path).parent
    return [_record(table.name, record, chosen, target, folder, goal) for record in table.records]


def _target(columns: AudioColumns, goal: AudioGoal, table: Table) -> str:
    """The column of what is to be told: a label may stand for what is said, and what is said for a label."""
    found = (columns.text or columns.label) if goal == "transcript" else (columns.label or columns.text)
    if found is None:
        raise DataError(
            f"No column is named as the {goal}.", where=table.name, remedy=f"Name one of {', '.join(table.columns)}."
        )
    return found


def _record(
    name: str, record: Record, columns: AudioColumns, target: str, folder: PurePosixPath, goal: AudioGoal
) -> Listed:
    def cell(column: str | None) -> str | None:
        return (as_text(record.values.get(column)) or None) if column else None

    source = cell(columns.audio) or ""
    row = AudioRow(
        record.number,
        text=cell(target),
        speaker=cell(columns.speaker),
        source=cell(columns.source),
        licence=cell(columns.licence),
        file=name,
        path="data URI" if source.startswith("data:") else source[:200],
        line=record.line,
        problem=next((found for column in (columns.audio, target) if (found := text_problem(record, column))), None),
    )
    if row.problem is not None:
        return Listed(row, source)
    inner = within(record, columns.audio, source, folder)
    if not isinstance(inner, str):
        return Listed(replace(row, problem=inner), "")
    return Listed(_for_goal(row, goal), inner)


def _for_goal(row: AudioRow, goal: AudioGoal) -> AudioRow:
    return row if goal == "transcript" else replace(row, text=None, label=row.text)


def speakers_of(rows: Sequence[AudioRow]) -> dict[str, int]:
    """How many rows each speaker has, sorted by name; rows without one are not counted."""
    return dict(sorted(Counter(row.speaker for row in rows if row.speaker).items()))
