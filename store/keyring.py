"""Files with secrets: made once, readable by their owner alone."""

import os
import tempfile
from pathlib import Path

from moatelier.errors import ResourceExhausted
from moatelier.settings import settings


def folder() -> Path:
    """`<home>/keys`, made with mode 0700 when missing."""
    path = settings().home / "keys"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_once(path: Path, data: bytes) -> bytes:
    """Write a secret with mode 0600 unless the file is there; what it holds now, ours or that of whoever came first.

    Raises:
        ResourceExhausted: The disk is full.
    """
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)  # mkstemp makes it 0600
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike a rename it never replaces
    except FileExistsError:
        return path.read_bytes()
    except OSError as error:
        raise ResourceExhausted(
            f"Writing a key failed: {error.strerror}.", where=str(path), remedy="Free some disk space and try again."
        ) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
    return data
