"""What an upload holds: which modality's data, told by its bytes and the names within, before any of it is decoded."""

from collections.abc import Iterable
from pathlib import Path

from moatelier.errors import DataError
from modalities.audio import rows as audio_rows
from modalities.audio import sound
from modalities.files import is_zip, zip_names
from modalities.media import Media
from modalities.text.reading import Table, read_table
from modalities.vision import images
from modalities.vision import rows as image_rows

MEDIA: dict[str, Media] = {"vision": images.media(), "audio": sound.media()}
_LOOKED_AT = 20
"""Rows of a table by which it is told what its columns name."""
_HEAD = 1 << 16
_WORKBOOKS = (".csv", ".xlsx", ".xls", ".ods", ".jsonl", ".tsv", ".txt")
_HINTS = [b"data:", *(suffix.encode() for media in MEDIA.values() for suffix in media.suffixes)]


def held(path: Path, name: str) -> tuple[str, ...]:
    """The modalities that an upload has data of; the likeliest first. Several only for an archive.

    Raises:
        DataError: It is an archive of something else, or media without anything that tells of them.
    """
    if is_zip(path) and not name.lower().endswith(_WORKBOOKS):  # those are zips too, and their reader says what to do
        return _in_archive(zip_names(path, name), name)
    for media in MEDIA.values():
        if name.lower().endswith(media.suffixes):
            raise DataError(
                f"One {media.name} file alone is nothing to learn from.",
                where=name,
                remedy="Pack all of them, in a folder for each class or with a table, into one zip.",
            )
    return (_of_table(path, name),)


def _in_archive(names: Iterable[str], name: str) -> tuple[str, ...]:
    lower = [each.lower() for each in names]
    counts = {modality: sum(each.endswith(media.suffixes) for each in lower) for modality, media in MEDIA.items()}
    found = sorted((modality for modality, count in counts.items() if count), key=lambda each: -counts[each])
    if not found:
        raise DataError(
            "The archive holds neither pictures nor recordings.",
            where=name,
            remedy="Send tables of texts unpacked, as CSV or JSON lines.",
        )
    return tuple(found)


def _of_table(path: Path, name: str) -> str:
    """Text, unless a column brings images or recordings as data URIs, or one that is named for it has their files."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD).lower()
        if not any(hint in head for hint in _HINTS):
            return "text"
        table = read_table(path, name)
    except (OSError, DataError):
        return "text"  # whoever reads it as such tells why it cannot be read
    return next((modality for modality, media in MEDIA.items() if _has(table, modality, media)), "text")


def _has(table: Table, modality: str, media: Media) -> bool:
    for column in table.columns:
        cells = [str(record.values.get(column) or "").strip().lower() for record in table.records[:_LOOKED_AT]]
        if all(cell.startswith(f"data:{media.name}/") for cell in cells):
            return True
        if column == _source(table, modality) and all(cell.endswith(media.suffixes) for cell in cells):
            return True
    return False


def _source(table: Table, modality: str) -> str | None:
    """The column that seems to name the media, by its name."""
    if modality == "vision":
        seen = image_rows.guess_columns(table)
        return seen.image if seen else None
    heard = audio_rows.guess_columns(table)
    return heard.audio if heard else None
