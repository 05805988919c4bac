"""An exam: questions with pictures, recordings and answers, which a person brings to try a recipe on them.

A table (CSV, TSV or JSON lines), alone or in one zip with the files that it names:

    {"question": "Is what is said what is shown?", "image": "1.jpg", "audio": "1.wav", "answer": "yes"}

Columns of media are told by their names or by what stands in them, paths or data URIs, and any row may do without one;
the question and the answer are told by the names of theirs. One bad row refuses the whole: who is examined must know by
what.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from moatelier.contracts import Columns, RowProblem
from moatelier.errors import DataError
from modalities.audio import sound
from modalities.files import TABLES, Files, is_zip
from modalities.kinds import MEDIA
from modalities.listing import guess_roles, open_data, read_media, table_in, within
from modalities.media import Media
from modalities.text.reading import Record, Table, as_text, parse_table, place
from modalities.text.rows import Row
from modalities.vision import images

_ROLES = {
    "question": ("question", "prompt", "instruction", "query", "input", "message"),
    "answer": ("answer", "expected", "target", "label", "output", "response", "completion"),
    "group": ("group",),
}
"""Role -> names of columns that usually play it, best first; `text` is none, it may say what a recording says."""
_ALL = replace(sound.media(), suffixes=tuple(suffix for media in MEDIA.values() for suffix in media.suffixes))
_MEDIA_ROLES = {
    "vision": ("image", "picture", "photo", "img", "image_path", "image_url"),
    "audio": ("audio", "recording", "sound", "speech", "clip", "audio_path", "audio_url"),
}
"""Modality -> names of columns that hold its media, whatever stands in some cells."""


@dataclass(frozen=True)
class Exam:
    """What was read.

    Attributes:
        rows: One question each, its media by the digests of their artifacts: `{"type": "image", "artifact": "..."}`.
        columns: Which column held question, answer and group.
    """

    rows: tuple[Row, ...]
    columns: Columns


def read_exam(path: Path, name: str, keep: Callable[[bytes], str], check: Callable[[], None] = lambda: None) -> Exam:
    """Read an exam and keep its media.

    Args:
        path: A table, or a zip with one.
        name: What its owner calls it.
        keep: Keeps a medium's bytes and returns their digest.
        check: Called before each row; may raise to stop.

    Raises:
        DataError: It is none, a column is missing, or a row has no answer, asks nothing, or names a medium that is
            missing or damaged; `where` names file, row and line.
        InvalidRequest: A medium is a URL.
    """
    if not (path.is_dir() or is_zip(path) or name.lower().endswith(TABLES)):
        raise DataError(
            "An exam is a table, or a folder or zip with one.", where=name, remedy="Save it as CSV or JSON lines."
        )
    with open_data(path, name, _ALL, None) as (files, table):
        folder = PurePosixPath()
        if table is None:
            inner = table_in(files, _ALL, None, needed=True) or ""
            table, folder = parse_table(files.read(inner), f"{name}: {inner}"), PurePosixPath(inner).parent
        reader = _Reader(files, folder, table, keep)
        rows = []
        for record in table.records:
            check()
            rows.append(reader.row(record))
    columns = Columns(input=reader.roles["question"], target=reader.roles["answer"], group=reader.roles["group"])
    return Exam(tuple(rows), columns)


class _Reader:
    def __init__(self, files: Files, folder: PurePosixPath, table: Table, keep: Callable[[bytes], str]) -> None:
        self._files, self._folder, self._name, self._keep = files, folder, table.name, keep
        self.roles = guess_roles(table, _ROLES)
        self._media = _media_columns(table, {self.roles["answer"], self.roles["group"]})
        if self.roles["question"] in self._media:
            self.roles["question"] = None
        if self.roles["answer"] is None or not (self.roles["question"] or self._media):
            raise DataError(
                "No column holds the answers." if self.roles["answer"] is None else "No column asks anything.",
                where=table.name,
                remedy="Name one `answer`, and one `question` or one with pictures or recordings; the columns are "
                f"{', '.join(table.columns)}.",
            )

    def row(self, record: Record) -> Row:
        """One question. Raises as `read_exam` does."""
        where = place(self._name, record.number, record.line)
        answer = _text(record, self.roles["answer"], where)
        if not answer:
            raise DataError("The row has no answer.", where=where, remedy="Fill it in or delete the row.")
        question = _text(record, self.roles["question"], where)
        seen = [self._part(record, column, modality, where) for column, modality in self._media.items()]
        content = [{"type": "text", "text": question}] if question else []
        content += [part for part in seen if part]
        if not content:
            raise DataError("The row asks nothing.", where=where, remedy="Fill it in or delete the row.")
        asked: dict[str, Any] = {"role": "user", "content": content if any(seen) else question}
        turns = (asked, {"role": "assistant", "content": answer})
        group = _text(record, self.roles["group"], where) or None
        return Row(record.number, turns, None, group, self._name, record.line)

    def _part(self, record: Record, column: str, modality: str, where: str) -> dict[str, str] | None:
        if not (source := _text(record, column, where)):
            return None
        inner = within(record, column, source, self._folder)
        if isinstance(inner, RowProblem):
            raise DataError(inner.reason, where=where, remedy=inner.remedy)
        media = MEDIA[modality]
        data = read_media(self._files, inner, where, media)
        decode: Callable[[bytes, str], Any] = images.decode_image if modality == "vision" else sound.decode_sound
        decode(data, where)  # a damaged one would count as everybody's mistake
        return {"type": media.name, "artifact": self._keep(data)}


def _text(record: Record, column: str | None, where: str) -> str:
    text = as_text(record.values.get(column)) if column else ""
    if text is None:
        raise DataError(f"The value of {column} is not text.", where=where, remedy="Write one string of valid Unicode.")
    return text


def _media_columns(table: Table, others: set[str | None]) -> dict[str, str]:
    """Column -> whose media it holds: by its name, or because most of its filled cells are their paths or data URIs."""
    named = {role: modality for modality, roles in _MEDIA_ROLES.items() for role in roles}
    found = {}
    for column in (column for column in table.columns if column not in others):
        cells = [text.lower() for record in table.records if (text := as_text(record.values.get(column)))]
        counts = {modality: sum(_is(cell, media) for cell in cells) for modality, media in MEDIA.items()}
        likeliest = max(counts, key=lambda modality: counts[modality])
        if modality := named.get(column.casefold()) or (likeliest if 2 * counts[likeliest] > len(cells) else None):
            found[column] = modality
    return found


def _is(cell: str, media: Media) -> bool:
    return cell.endswith(media.suffixes) or cell.startswith(f"data:{media.name}/")
