"""Content-addressed files: `artifacts/ab/<sha256>`. A name promises its bytes, so writing twice is writing once."""

import json
import os
import re
import tempfile
import time
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from moatelier.contracts import Contract
from moatelier.errors import IntegrityError, InvalidRequest, NotFound, ResourceExhausted
from moatelier.ids import canonical_json, digest_bytes
from moatelier.settings import settings

_PIECE = 1 << 20
_INCOMING = ".incoming-"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Incoming:
    """A stream that has been written beside its place and waits for `keep` or `discard`.

    Args:
        stream: Read to its end.

    Raises:
        ResourceExhausted: The disk is full; nothing is left behind.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.bytes = 0
        hashed = sha256()
        folder = settings().home / "artifacts"
        descriptor, self._path = -1, Path()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A name of its own for each writer: two threads may bring the same bytes at once.
            descriptor, name = tempfile.mkstemp(prefix=_INCOMING, dir=folder)
            self._path = Path(name)
            with open(descriptor, "wb") as file:
                while piece := stream.read(_PIECE):
                    file.write(piece)
                    hashed.update(piece)
                    self.bytes += len(piece)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self.discard()
            raise _no_space(error, folder) from error
        except BaseException:
            self.discard()
            raise
        self.digest = hashed.hexdigest()

    def keep(self) -> str:
        """Move the bytes to their place and return their digest. A damaged copy there is healed by it."""
        target = _place(self.digest)
        try:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            self._path.replace(target)
        except OSError as error:
            self.discard()
            raise _no_space(error, target) from error
        return self.digest

    def discard(self) -> None:
        """Leave nothing behind; nothing to do after `keep`."""
        if self._path.name:
            self._path.unlink(missing_ok=True)


def _no_space(error: OSError, where: Path) -> ResourceExhausted:
    return ResourceExhausted(
        f"Writing failed: {error.strerror or error}.", where=str(where), remedy="Free some disk space and try again."
    )


def _place(digest: str) -> Path:
    return settings().home / "artifacts" / digest[:2] / digest


def put_bytes(data: bytes) -> str:
    """Keep bytes and return their digest. Raises ResourceExhausted when the disk is full."""
    return Incoming(BytesIO(data)).keep()


def put_file(path: Path) -> str:
    """Keep a copy of a file and return its digest. Raises NotFound and ResourceExhausted."""
    try:
        with path.open("rb") as stream:
            return Incoming(stream).keep()
    except FileNotFoundError as error:
        raise NotFound("There is no such file to keep.", where=str(path)) from error


def put_json(value: Contract | Any) -> str:
    """Keep a JSON value in its canonical form: the digest of a contract's artifact is the contract's `digest`.

    Raises:
        InvalidRequest: The value is no JSON (not finite, or of another type).
        ResourceExhausted: The disk is full.
    """
    plain = value.model_dump(mode="json") if isinstance(value, Contract) else value
    try:
        data = canonical_json(plain)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"This cannot be kept as JSON: {error}.") from error
    return put_bytes(data)


def path(digest: str) -> Path:
    """Where the artifact lies. The bytes are not verified here. Raises NotFound."""
    if not _DIGEST.fullmatch(digest) or not _place(digest).is_file():
        raise NotFound("There is no such artifact.", where=digest, remedy="It may have been deleted with its file.")
    return _place(digest)


def get_bytes(digest: str) -> bytes:
    """The artifact's bytes. Raises NotFound, and IntegrityError if they are not what the digest promises."""
    data = path(digest).read_bytes()
    if digest_bytes(data) != digest:
        raise IntegrityError(
            "An artifact's bytes have changed on disk.",
            where=digest,
            remedy="Restore it from a backup, or make it anew.",
        )
    return data


def get_json(digest: str) -> Any:
    """The artifact as JSON. Raises like `get_bytes`, and InvalidRequest if it is no JSON."""
    try:
        return json.loads(get_bytes(digest))
    except ValueError as error:
        raise InvalidRequest(f"This artifact is not JSON: {error}.", where=digest) from error


def remove(digest: str) -> None:
    """Delete an artifact, if it is there. Only who knows that nothing else refers to it may do so."""
    if _DIGEST.fullmatch(digest):
        _place(digest).unlink(missing_ok=True)


def remove_leftovers(older_than_s: float = 86_400) -> int:
    """Delete what processes that were killed while writing left behind; the number of files. For the sweeper."""
    written_before = time.time() - older_than_s
    leftovers = [
        path for path in (settings().home / "artifacts").glob(f"{_INCOMING}*") if path.stat().st_mtime <= written_before
    ]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)
