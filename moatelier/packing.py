"""What is sent of a path: a file as it is, a folder of pictures or recordings as a zip, a table with what it names too.

The same files give the same bytes, so that the service keeps them once.
"""

import csv
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from moatelier.errors import DataError

TABLES = (".csv", ".tsv", ".jsonl")
MEDIA = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".m4a", ".mp4", ".webm"),
)
"""Endings of what the service reads; all else in a folder is left at home."""
MAX_FILES = 100_000
MAX_BYTES = 16 * 2**30
"""Of all files together; the service takes no more either."""
_LOOSE = (".wav", ".aif", ".aiff", ".bmp", ".tif", ".tiff", *TABLES)
"""What is worth compressing; other formats are compressed already."""
_ROWS = 20
_LONGEST = 1 << 20
"""Characters of a table's rows by which it is told whether they name files."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


@contextmanager
def sendable(path: Path) -> Iterator[tuple[str, Path]]:
    """The name and the file to send; a packed one is deleted afterwards.

    Raises:
        DataError: There is no such file or folder, or it holds nothing, too much, or what leads out of it.
    """
    if not path.exists():
        raise DataError("There is no such file.", where=str(path), remedy="Check the path.")
    names = _in_folder(path) if path.is_dir() else _beside(path)
    if not names:
        yield path.name, path
        return
    root = path if path.is_dir() else path.parent
    with tempfile.TemporaryDirectory(prefix="moatelier-") as folder:
        packed = Path(folder) / "packed.zip"
        _pack(root, names, packed)
        yield f"{path.resolve().name.removesuffix(path.suffix if path.is_file() else '')}.zip", packed


def _in_folder(path: Path) -> list[str]:
    found: list[str] = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if _counts(name))
        inner = Path(folder).relative_to(path)
        found += [(inner / name).as_posix() for name in names if _counts(name) and _ending(name) in (*MEDIA, *TABLES)]
        _need_few(len(found), path)
    if not any(_ending(name) in MEDIA for name in found):
        raise DataError(
            "There are neither pictures nor recordings in the folder.",
            where=str(path),
            remedy="Name a folder of them, or a single CSV or JSONL file of texts.",
        )
    return sorted(found)


def _beside(path: Path) -> list[str]:
    """A table and the files beside it that one of its columns names; nothing where it names none."""
    if _ending(path.name) not in TABLES:
        return []
    head = list(_rows(path, _ROWS))
    cells = {
        name: [row[name] for row in head if row.get(name)] for name in dict.fromkeys(n for row in head for n in row)
    }
    columns = [name for name, filled in cells.items() if filled and all(map(_is_medium, filled))]
    named = {row[name] for row in _rows(path) for name in columns if _is_medium(row.get(name))}
    files = {name for name in named if (path.parent / name).is_file()}
    _need_few(len(files), path)
    return [path.name, *sorted(files)] if files else []


def _rows(path: Path, most: int | None = None) -> Iterator[dict[str, str]]:
    """The rows of a table as far as it can be read here; the service tells what is wrong with the rest."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        if _ending(path.name) == ".jsonl":
            yield from (_plain(line) for line in islice(iter(lambda: file.readline(_LONGEST), ""), most))
            return
        first = file.readline(_LONGEST)
        file.seek(0)
        delimiter = max(",;\t|", key=first.count)
        try:
            for row in islice(csv.DictReader(file, delimiter=delimiter), most):
                yield {str(name): value for name, value in row.items() if isinstance(value, str)}
        except csv.Error:
            return


def _plain(line: str) -> dict[str, str]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return {name: cell for name, cell in value.items() if isinstance(cell, str)} if isinstance(value, dict) else {}


def _is_medium(value: str | None) -> bool:
    """Whether a cell may be a path to a medium within the table's folder."""
    inner = value or ""
    if len(inner) > 1000 or inner.startswith(("data:", "/")) or ".." in inner:
        return False
    return _ending(inner) in MEDIA


def _pack(root: Path, names: Sequence[str], to: Path) -> None:
    whole, inside = 0, root.resolve()
    with zipfile.ZipFile(to, "w") as archive:
        for name in names:
            file = root / name
            if not file.resolve().is_relative_to(inside):
                raise DataError("A file leads out of the folder.", where=str(file), remedy="Copy it there.")
            whole += file.stat().st_size
            if whole > MAX_BYTES:
                raise DataError(
                    f"The files have more than {MAX_BYTES // 2**30} GB.", where=str(root), remedy="Divide them."
                )
            info = zipfile.ZipInfo(name, date_time=_EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED if _ending(name) in _LOOSE else zipfile.ZIP_STORED
            with file.open("rb") as source, archive.open(info, "w", force_zip64=True) as target:
                while piece := source.read(1 << 20):
                    target.write(piece)


def _need_few(count: int, path: Path) -> None:
    if count > MAX_FILES:
        raise DataError(f"There are more than {MAX_FILES} files.", where=str(path), remedy="Divide them.")


def _counts(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _ending(name: str) -> str:
    return Path(name).suffix.lower()
