"""How things are named: random ids for what happens, content digests for what is made."""

import hashlib
import json
import re
import secrets
from pathlib import Path
from typing import Any

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's, without the letters people misread


def new_id(prefix: str) -> str:
    """A fresh random id such as `task-8f3k2m9q1c7e` (60 bits)."""
    return f"{prefix}-" + "".join(secrets.choice(_ALPHABET) for _ in range(12))


def canonical_json(value: Any) -> bytes:
    """The one byte string that stands for a JSON value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_bytes(data: bytes) -> str:
    """SHA-256 of bytes, as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value's canonical form, as 64 hex digits."""
    return digest_bytes(canonical_json(value))


def digest_file(path: Path) -> str:
    """SHA-256 of a file, read in pieces, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def job_key(thread: str, node: str, attempt: int, inputs: Any) -> str:
    """The idempotency key of one piece of long work: the same inputs at the same place are the same job."""
    return f"{node}-{digest_json([thread, node, attempt, inputs])[:24]}"


def slug(text: str, limit: int = 32) -> str:
    """A short name safe in ids, file names and URLs: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:limit].strip("-") or "task"


def model_id(base: str, suffix: str, digest: str) -> str:
    """The public id of an adapter: `ft:<base>:<suffix>:<digest8>`."""
    return f"ft:{base}:{suffix}:{digest[:8]}"
