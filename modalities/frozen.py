"""A memory-mapped cache of what the frozen layers make of the training rows, computed once for all epochs and trials.

    <home>/frozen/<key>/meta.json     what the key stands for, and the file's full size
    <home>/frozen/<key>/states.bin    the vectors of all items, one after another
    <home>/frozen/<key>/filled        how many batches are whole on disk
    <home>/frozen/<key>/used          touched at each use; the oldest folder goes first when room is needed
    <home>/frozen/<key>/of/           names the datasets whose rows it holds, see `store.frozen`
    <home>/frozen/<key>.lock          held exclusively while filling, shared while reading

An *item* is a row or whatever else is computed at once. Items are filled in the order and the batches that the
caller fixes by content, and only whole batches count after a kill: a vector's bits depend on the batch it was
computed in, so a resumed run reads the very bits of an undisturbed one.
"""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from filelock import FileLock
from torch import Tensor

from moatelier.errors import ResourceExhausted
from moatelier.ids import canonical_json, digest_json
from moatelier.job import write_atomically
from moatelier.settings import settings
from store.frozen import home, mark, remove, remove_unused

_DISK_MARGIN = 512 * 2**20

Compute = Callable[[Sequence[int]], Tensor]
"""Item numbers -> their vectors `[sum of sizes, width]`, in the order asked for."""
Progress = Callable[[int, int], None]
"""Called after each batch with (batches done, batches in all); may raise to stop."""


@dataclass(frozen=True)
class Layers:
    """What is cached: the items' sizes and everything that determines their values.

    Attributes:
        key: JSON-able identity of the values: base, boundary, template, precision, device, content of the items.
        sizes: Number of vectors of each item, in content order.
        width: Length of a vector.
        dtype: Element type.
        batches: The fixed batches, ranges of items, covering all items in order.
    """

    key: dict[str, str | int]
    sizes: tuple[int, ...]
    width: int
    dtype: torch.dtype
    batches: tuple[range, ...]

    @property
    def row_bytes(self) -> int:
        """Size of one vector."""
        return self.width * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        """Size of all vectors."""
        return sum(self.sizes) * self.row_bytes

    @property
    def name(self) -> str:
        """The folder's name: what is cached and how it is cut into batches."""
        cut = [[batch.start, batch.stop] for batch in self.batches]
        return digest_json([self.key, list(self.sizes), self.width, str(self.dtype), cut])[:32]


class FrozenStates:
    """The vectors of a fixed list of items: read from disk where they fit there, else computed when asked for.

    Use as a context manager or call `close()`; the folder cannot be evicted in between.
    """

    def __init__(self, layers: Layers, compute: Compute, folder: Path | None, lock: BinaryIO | None) -> None:
        self._compute, self._lock = compute, lock
        self.cached = folder is not None
        """Whether the vectors lie on disk."""
        ends = [0]
        for size in layers.sizes:
            ends.append(ends[-1] + size)
        self._ends = ends
        self._states: Tensor | None = None
        if folder is not None:
            path = str(folder / "states.bin")
            flat = torch.from_file(path, shared=False, size=ends[-1] * layers.width, dtype=layers.dtype)
            self._states = flat.view(ends[-1], layers.width)

    def read(self, items: Sequence[int]) -> Tensor:
        """The vectors `[sum of sizes, width]` of some items, in the order asked for, on the CPU if cached."""
        if self._states is None:
            with torch.no_grad():
                return self._compute(items)
        return torch.cat([self._states[self._ends[item] : self._ends[item + 1]] for item in items])

    def close(self) -> None:
        """Let go of the folder."""
        self._states = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "FrozenStates":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_states(layers: Layers, compute: Compute, progress: Progress = lambda *_: None) -> FrozenStates:
    """Fill the cache for these items, or go on where a killed predecessor stopped, and open it.

    When the cache would be larger than `settings().frozen_cache_gb` or than the disk has room for, nothing is stored
    and the vectors are computed whenever they are read.

    Args:
        layers: What to cache.
        compute: Runs the frozen layers; called once for each of `layers.batches` that is not there yet.
        progress: Called after each filled batch; what it raises ends the filling, whole batches stay.
    """
    folder = home() / layers.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        lock = _locked(folder, layers, progress)
        try:
            if not _is_whole(folder, layers) and not _filled_now(folder, layers, compute, progress):
                lock.close()
                return FrozenStates(layers, compute, None, None)
            fcntl.flock(lock, fcntl.LOCK_SH)
            # Turning the lock from exclusive to shared lets go of it for a moment, in which the folder may vanish.
            if _is_whole(folder, layers):
                (folder / "used").touch()
                mark(folder)
                return FrozenStates(layers, compute, folder, lock)
        except BaseException:
            lock.close()
            raise
        lock.close()


def _locked(folder: Path, layers: Layers, progress: Progress) -> BinaryIO:
    """The folder's lock: shared if all is there already, else exclusive. Waits for who is filling it."""
    lock = folder.with_suffix(".lock").open("ab")
    try:
        while True:
            mode = fcntl.LOCK_SH if _is_whole(folder, layers) else fcntl.LOCK_EX
            try:
                fcntl.flock(lock, mode | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                progress(_filled(folder), len(layers.batches))
                time.sleep(0.2)
    except BaseException:
        lock.close()
        raise


def _is_whole(folder: Path, layers: Layers) -> bool:
    return _filled(folder) == len(layers.batches) and _states_size(folder) == layers.bytes


def _filled_now(folder: Path, layers: Layers, compute: Compute, progress: Progress) -> bool:
    """Fill the folder; False, and nothing left behind, when there is no room for it."""
    try:
        with FileLock(folder.parent / ".room"):
            if not _make_room(folder, layers):
                remove(folder)
                return False
            _reserve(folder, layers)
        _fill(folder, layers, compute, progress)
    except (OSError, ResourceExhausted) as error:
        if isinstance(error, OSError) and error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        remove(folder)
        return False
    return True


def _reserve(folder: Path, layers: Layers) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "used").touch()
    mark(folder)
    meta = {"key": layers.key, "bytes": layers.bytes, "width": layers.width, "dtype": str(layers.dtype)}
    write_atomically(folder / "meta.json", canonical_json(meta))


def _fill(folder: Path, layers: Layers, compute: Compute, progress: Progress) -> None:
    done = min(_filled(folder), len(layers.batches))
    whole = sum(sum(layers.sizes[item] for item in batch) for batch in layers.batches[:done]) * layers.row_bytes
    if _states_size(folder) < whole:
        done = whole = 0
    with (folder / "states.bin").open("ab") as file:
        file.truncate(whole)  # whatever stands behind the last whole batch is half of one
        for number in range(done, len(layers.batches)):
            with torch.inference_mode():
                states = compute(layers.batches[number]).to("cpu", layers.dtype).contiguous()
            file.write(states.view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
            write_atomically(folder / "filled", str(number + 1).encode())
            progress(number + 1, len(layers.batches))


def _make_room(folder: Path, layers: Layers) -> bool:
    """Remove the oldest folders that nobody uses until this one fits; False when it cannot."""
    limit = int(settings().frozen_cache_gb * 1e9)
    if layers.bytes > limit:
        return False
    others = {other: _reserved(other) for other in folder.parent.iterdir() if other.is_dir() and other != folder}
    for victim in [*sorted(others, key=_last_use), None]:
        free = shutil.disk_usage(folder.parent).free + _states_size(folder) - _DISK_MARGIN
        if layers.bytes <= min(limit - sum(others.values()), free):
            return True
        if victim is not None and remove_unused(victim):
            del others[victim]
    return False


def _filled(folder: Path) -> int:
    try:
        return int((folder / "filled").read_text())
    except FileNotFoundError:
        return 0


def _states_size(folder: Path) -> int:
    try:
        return (folder / "states.bin").stat().st_size
    except FileNotFoundError:
        return 0


def _reserved(folder: Path) -> int:
    try:
        return int(json.loads((folder / "meta.json").read_bytes())["bytes"])
    except FileNotFoundError:
        return 0


def _last_use(folder: Path) -> float:
    try:
        return (folder / "used").stat().st_mtime
    except FileNotFoundError:
        return 0.0
