"""API keys: `mo-...`, shown once. The store keeps only their SHA-256."""

import secrets
from datetime import datetime

from filelock import FileLock
from sqlalchemy import select

from moatelier.contracts import now
from moatelier.errors import NotFound
from moatelier.ids import digest_bytes, new_id
from moatelier.settings import settings
from store import audit, keyring
from store.db import insert_once, reading, session
from store.tables import KeyRow, Stored


class Key(Stored):
    """An API key, without its secret."""

    id: str
    project: str
    name: str
    created_at: datetime
    revoked_at: datetime | None


def create(project: str, name: str) -> str:
    """Make a key for a project and return its secret, which cannot be had again."""
    secret = _new_secret()
    _enter(project, name, secret)
    return secret


def _new_secret() -> str:
    return f"mo-{secrets.token_urlsafe(32)}"


def _enter(project: str, name: str, secret: str) -> None:
    row = {"id": new_id("key"), "project": project, "name": name, "sha256": digest_bytes(secret.encode())}
    with session() as opened:
        if insert_once(opened, KeyRow, [row], conflict=["sha256"]):
            audit.write(project, "store", "key.create", row["id"], {"name": name}, within=opened)


def check(secret: str) -> Key | None:
    """The key with this secret; None when there is none or it was revoked."""
    key = _by_secret(secret)
    return None if key is None or key.revoked_at else key


def _by_secret(secret: str) -> Key | None:
    query = select(KeyRow).where(KeyRow.sha256 == digest_bytes(secret.encode(errors="replace")))
    with reading() as opened:
        row = opened.scalars(query).one_or_none()
        return None if row is None else Key.model_validate(row)


def list_keys(project: str) -> list[Key]:
    """The project's keys, oldest first, revoked ones included."""
    query = select(KeyRow).where(KeyRow.project == project).order_by(KeyRow.created_at)
    with reading() as opened:
        return [Key.model_validate(row) for row in opened.scalars(query)]


def revoke(project: str, id: str) -> None:
    """Make a key useless from now on. Idempotent. Raises NotFound."""
    with session() as opened:
        row = opened.get(KeyRow, id)
        if row is None or row.project != project:
            raise NotFound("There is no such key in this project.", where=id)
        if row.revoked_at is None:
            row.revoked_at = now()
            audit.write(project, "store", "key.revoke", id, {"name": row.name}, within=opened)


def ensure_admin() -> str:
    """The secret in `keys/admin.key`; at the first start, or after that key was revoked, a new one is made.

    The file is written before the row: a start that dies in between is mended by the next one.
    """
    path = keyring.folder() / "admin.key"
    with FileLock(path.with_suffix(".lock")):
        secret = keyring.write_once(path, _new_secret().encode()).decode().strip()
        key = _by_secret(secret)
        if key is not None and key.revoked_at:
            path.unlink()
            secret = keyring.write_once(path, _new_secret().encode()).decode()
        _enter(settings().project, "admin", secret)
    return secret
