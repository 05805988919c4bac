"""Reads CTranslate2's `model.bin` into arrays, without CTranslate2, without copying, and without trusting the file.

    u32 version, str spec, u32 revision, u32 n, n x (str name, u8 rank, rank x u32, u8 type, u32 bytes, data),
    u32 m, m x (str alias, str name)                                with str = u16 length, bytes, NUL within the length

as `ctranslate2.specs.model_spec.ModelSpec._serialize` writes it (https://github.com/OpenNMT/CTranslate2), versions 4
to 6. Little-endian.
"""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moatelier.errors import IntegrityError

VERSIONS = range(4, 7)
BFLOAT16: np.dtype[Any] = np.dtype("V2")
"""How an array of bfloat16, which numpy lacks, is handed on: as two raw bytes an element."""
_TYPES: dict[int, np.dtype[Any]] = {
    number: np.dtype(name) for number, name in enumerate(("<f4", "i1", "<i2", "<i4", "<f2", "V2"))
}
_MOST_TENSORS = 100_000
_MOST_DIMENSIONS = 8

Array = NDArray[Any]


class _Reader:
    """A cursor over the file that never steps over its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data: Array = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        self._at = 0

    def fail(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"The CTranslate2 file cannot be read: {what}.",
            where=f"{self._path}, byte {self._at}",
            remedy="Pull the model again, or convert it again.",
        )

    def take(self, count: int) -> Array:
        if count > len(self._data) - self._at:
            raise self.fail(f"it ends after {len(self._data)} bytes where {count} more are due")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, form: str) -> int:
        (value,) = struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")).tobytes())
        return int(value)

    def count(self, most: int, what: str) -> int:
        found = self.number("I")
        if found > most:
            raise self.fail(f"it claims {found} {what}")
        return found

    def text(self) -> str:
        raw = self.take(self.number("H")).tobytes()
        try:
            return raw.removesuffix(b"\0").decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail("a name is not UTF-8") from error

    def tensor(self) -> Array:
        rank = self.number("B")
        if rank > _MOST_DIMENSIONS:
            raise self.fail(f"a tensor has {rank} dimensions")
        shape = tuple(self.number("I") for _ in range(rank))
        kind, size = self.number("B"), self.number("I")
        if kind not in _TYPES:
            raise self.fail(f"a tensor has the unknown type {kind}")
        dtype = _TYPES[kind]
        if math.prod(shape) * dtype.itemsize != size:
            raise self.fail(f"a tensor of shape {shape} has {size} bytes")
        array: Array = self.take(size).view(dtype).reshape(shape)
        return array

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._data)


def read(path: Path, spec: str) -> dict[str, Array]:
    """All tensors by name, aliases among them; they lie in the file, which must stay.

    Args:
        path: The `model.bin`.
        spec: Name of the specification it must be of, such as `WhisperSpec`.

    Raises:
        IntegrityError: It is truncated, of another version or specification, or contradicts itself; `where` has the
            place in bytes.
    """
    reader = _Reader(path)
    if (version := reader.number("I")) not in VERSIONS:
        raise reader.fail(f"its version is {version}, not {VERSIONS.start} to {VERSIONS.stop - 1}")
    if (found := reader.text()) != spec:
        raise reader.fail(f"it holds a {found[:40]!r}, not a {spec}")
    reader.number("I")  # the specification's revision: what it changes shows in the names
    tensors: dict[str, Array] = {}
    for _ in range(reader.count(_MOST_TENSORS, "tensors")):
        name = reader.text()
        if name in tensors:
            raise reader.fail(f"the tensor {name!r} stands twice")
        tensors[name] = reader.tensor()
    for _ in range(reader.count(_MOST_TENSORS, "aliases")):
        alias, name = reader.text(), reader.text()
        if name not in tensors or alias in tensors:
            raise reader.fail(f"the alias {alias!r} of {name!r} leads nowhere or stands twice")
        tensors[alias] = tensors[name]
    if not reader.is_at_end:
        raise reader.fail("something stands behind its end")
    return tensors
