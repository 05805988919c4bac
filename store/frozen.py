"""The folders of the frozen layers' cache: whose rows each holds, and how they go. `modalities.frozen` fills them.

In `<home>/frozen/<key>/of/` an empty file is named by the digest of each dataset whose rows the folder holds.
"""

import fcntl
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from moatelier.settings import settings

_dataset: ContextVar[str | None] = ContextVar("dataset", default=None)


def home() -> Path:
    """Where the folders lie."""
    return settings().home / "frozen"


@contextmanager
def of_dataset(digest: str) -> Iterator[None]:
    """What is cached within is computed from this dataset's rows, and goes with it."""
    token = _dataset.set(digest)
    try:
        yield
    finally:
        _dataset.reset(token)


def mark(folder: Path) -> None:
    """Note that a folder holds rows of the dataset that is worked on, if it is said which."""
    if digest := _dataset.get():
        (folder / "of").mkdir(exist_ok=True)
        (folder / "of" / digest).touch()


def datasets() -> set[str]:
    """Digests of the datasets of which rows are held."""
    return {mark.name for mark in home().glob("*/of/*")}


def clear(gone: Collection[str]) -> None:
    """Remove what was computed from these datasets' rows and from no other's.

    A folder in use stays; it is nobody's from then on, and the next clearing that finds it unused takes it.
    """
    for marks in home().glob("*/of"):
        for digest in gone:
            (marks / digest).unlink(missing_ok=True)
        if not any(marks.iterdir()):
            remove_unused(marks.parent)


def remove_unused(folder: Path) -> bool:
    """Remove a folder unless somebody fills or reads it; whether it is gone."""
    with folder.with_suffix(".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        remove(folder)
        return True


def remove(folder: Path) -> None:
    """Remove a folder whose lock the caller holds."""
    # First what says that the states are whole, so that a kill in between leaves an unfilled cache, not a false one.
    (folder / "filled").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
