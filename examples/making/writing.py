"""A set's files into a folder or a zip: whole, or not at all."""

import os
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from examples.making.sets import File
from moatelier.errors import Conflict

_DATE = (1980, 1, 1, 0, 0, 0)
"""Equal files make equal zips, whenever they are made."""


def write(out: Path, files: Iterable[File]) -> tuple[int, int]:
    """Write files where there is nothing yet; a zip is written anew.

    Args:
        out: A zip if it ends so, else a folder.
        files: Their paths within, and what stands there.

    Returns:
        How many files, and how many bytes they have together.

    Raises:
        Conflict: The folder has something in it, or a folder stands where the zip should.
    """
    out = out.resolve()
    zipped = out.suffix.lower() == ".zip"
    if out.is_dir() if zipped else out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Conflict("There is something already.", where=str(out), remedy="Name another place, or empty this one.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".making-") as part:
        made = Path(part) / out.name
        sizes = _write_zip(made, files) if zipped else _write_folder(made, files)
        os.replace(made, out)
    return len(sizes), sum(sizes)


def _write_zip(out: Path, files: Iterable[File]) -> list[int]:
    # Not compressed: pictures are already, and the bytes do not depend on the version of zlib.
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        sizes = []
        for path, data in files:
            archive.writestr(zipfile.ZipInfo(path, _DATE), data)
            sizes.append(len(data))
        return sizes


def _write_folder(out: Path, files: Iterable[File]) -> list[int]:
    sizes = []
    for path, data in files:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(data)
        sizes.append(len(data))
    return sizes
