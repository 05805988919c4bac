"""Where media lie: a folder, or a zip that is never unpacked. Everything is bounded, and nothing leads outside."""

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from moatelier.errors import DataError
from modalities.media import Media, read_bounded, too_many_bytes

MAX_FILES = 100_000
MAX_TOTAL = 16 * 2**30
"""Bytes of all files in an archive, unpacked."""
TABLES = (".csv", ".tsv", ".jsonl")
_NOISE = {"__MACOSX", "Thumbs.db", "desktop.ini"}


class Files(Protocol):
    """Files by their paths within, `/` between the parts."""

    @property
    def name(self) -> str:
        """What the owner calls the whole."""

    @property
    def format(self) -> Literal["folder", "zip"]:
        """What it is."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Media and tables, sorted."""

    def read(self, path: str) -> bytes:
        """A file's bytes.

        Raises:
            DataError: There is no such file, it is too large, damaged or leads outside.
        """


@contextmanager
def open_files(path: Path, name: str, media: Media) -> Iterator[Files]:
    """Open a folder or a zip.

    Args:
        path: Where it lies.
        name: What its owner calls it.
        media: What is looked for in it.

    Raises:
        DataError: It is neither, has too many or too large files, or paths that lead outside.
    """
    if path.is_dir():
        yield Folder(path, name, media)
        return
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise no_zip(name, error) from error
    with archive:
        yield Archive(archive, name, media)


def zip_names(path: Path, name: str) -> list[str]:
    """The names of the files in an archive; folders are left out.

    Raises:
        DataError: It is no zip, or has too many files.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise no_zip(name, error) from error
    _require_few(len(found), name)
    return [each for each in found if all(map(_counts, PurePosixPath(each).parts))]


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip archive does."""
    try:
        with path.open("rb") as file:
            return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except OSError:
        return False


class Folder:
    """A folder on this machine. Links that lead out of it are refused when they are read."""

    format: Literal["folder", "zip"] = "folder"

    def __init__(self, root: Path, name: str, media: Media) -> None:
        self._root, self.name, self._media = root.resolve(), name, media
        found: list[str] = []
        for folder, folders, names in os.walk(self._root):
            folders[:] = sorted(each for each in folders if _counts(each))
            inner = Path(folder).relative_to(self._root)
            found += [(inner / each).as_posix() for each in names if _wanted(each, media)]
            _require_few(len(found), name)
        self.paths = tuple(sorted(found))

    def read(self, path: str) -> bytes:
        """See `Files.read`."""
        file = (self._root / path).resolve()
        if not file.is_relative_to(self._root):
            raise _outside(self.name, path)
        if not file.is_file():
            raise _missing(self.name, path)
        return read_bounded(file, f"{self.name}: {path}", self._media)


class Archive:
    """A zip, read in place. A folder around everything is left out of the paths."""

    format: Literal["folder", "zip"] = "zip"

    def __init__(self, archive: zipfile.ZipFile, name: str, media: Media) -> None:
        self._archive, self.name, self._media = archive, name, media
        members = [info for info in archive.infolist() if not info.is_dir()]
        _require_few(len(members), name)
        if sum(info.file_size for info in members) > MAX_TOTAL:
            raise DataError(
                f"The archive's files have more than {MAX_TOTAL // 2**30} GB.", where=name, remedy="Divide it."
            )
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in members:
            self._add(info)
        self._strip()
        self.paths = tuple(sorted(self._members))

    def _add(self, info: zipfile.ZipInfo) -> None:
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename or "\0" in info.filename:
            raise _outside(self.name, info.filename)
        if not all(map(_counts, path.parts)) or not _wanted(path.name, self._media):
            return
        if path.as_posix() in self._members:
            raise DataError(
                "The archive has two files of one name.",
                where=f"{self.name}: {info.filename}",
                remedy="Pack it again from a folder.",
            )
        self._members[path.as_posix()] = info

    def _strip(self) -> None:
        tops = {path.partition("/")[0] for path in self._members}
        inside = all(path.count("/") > 1 or path.endswith(TABLES) and "/" in path for path in self._members)
        if len(tops) == 1 and inside:
            self._members = {path.partition("/")[2]: info for path, info in self._members.items()}

    def read(self, path: str) -> bytes:
        """See `Files.read`."""
        where = f"{self.name}: {path}"
        if (info := self._members.get(path)) is None:
            raise _missing(self.name, path)
        if stat.S_ISLNK(info.external_attr >> 16):
            raise _outside(self.name, path)
        if info.flag_bits & 1:
            raise DataError("The file is encrypted.", where=where, remedy="Pack it without a password.")
        most = self._media.max_bytes
        if info.file_size > most:
            raise too_many_bytes(where, self._media)
        try:
            with self._archive.open(info) as file:
                data = file.read(most + 1)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            raise DataError(
                f"The file cannot be unpacked: {error}.", where=where, remedy="Pack the archive again."
            ) from error
        if len(data) > most:  # whatever its header says
            raise too_many_bytes(where, self._media)
        return data


@dataclass(frozen=True)
class Nothing:
    """No files at all: a table that stands alone, whose media are data URIs."""

    name: str
    format: Literal["folder", "zip"] = "folder"
    paths: tuple[str, ...] = ()

    def read(self, path: str) -> bytes:
        """Always refused."""
        raise DataError(
            f"The table names the file {path[:100]!r}, but no files came with it.",
            where=self.name,
            remedy="Put table and files into one folder or zip, or write data URIs.",
        )


def no_zip(name: str, error: Exception) -> DataError:
    """The refusal of a file that is no archive, or a damaged one."""
    return DataError(f"The file is no zip archive: {error}.", where=name, remedy="Pack the folder as a zip.")


def _wanted(name: str, media: Media) -> bool:
    return _counts(name) and name.lower().endswith((*media.suffixes, *TABLES))


def _counts(part: str) -> bool:
    return part not in _NOISE and not part.startswith(".")


def _require_few(count: int, name: str) -> None:
    if count > MAX_FILES:
        raise DataError(f"There are more than {MAX_FILES} files.", where=name, remedy="Divide the data.")


def _outside(name: str, path: str) -> DataError:
    return DataError(
        "The path leads out of the folder.", where=f"{name}: {path[:200]}", remedy="Name files within it only."
    )


def _missing(name: str, path: str) -> DataError:
    return DataError("There is no such file.", where=f"{name}: {path[:200]}", remedy="Add it, or delete its row.")
