"""API keys: `mo-...`, shown once. The store keeps only SHA-256 sums, by which a key is also looked up.

A look-up by the digest tells a guesser nothing by its time: near misses have digests that are nowhere near.
"""

import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from filelock import FileLock
from sqlalchemy import select
from sqlalchemy.orm import Session

from moatelier.contracts import now
from moatelier.errors import Conflict, NotFound
from moatelier.ids import digest_bytes, new_id
from moatelier.scopes import SCOPES, Scope
from moatelier.settings import settings
from store import audit, keyring, projects
from store.db import insert_once, reading, session
from store.tables import KeyRow, RetiredRow, Stored


class Key(Stored):
    """An API key, without its secret. Limits that are None are those of the settings."""

    id: str
    project: str
    name: str
    scopes: tuple[Scope, ...] = SCOPES
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def may(self, scopes: Sequence[Scope]) -> bool:
        """One of these scopes is the key's, or it is an admin's."""
        return "admin" in self.scopes or any(scope in self.scopes for scope in scopes)

    @property
    def live(self) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now() < self.expires_at)


def create(
    project: str,
    name: str,
    *,
    scopes: Sequence[Scope] = SCOPES,
    expires_at: datetime | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    actor: str = "store",
) -> str:
    """Make a key for a project and return its secret, which cannot be had again."""
    secret = _new_secret()
    limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    _enter(project, name, secret, actor, scopes=list(scopes), expires_at=expires_at, **limits)
    return secret


def _new_secret() -> str:
    return f"mo-{secrets.token_urlsafe(32)}"


def digest_of(secret: str) -> str:
    """What the store knows of a secret."""
    return digest_bytes(secret.encode(errors="replace"))


def _enter(project: str, name: str, secret: str, actor: str, **fields: object) -> None:
    row = {"id": new_id("key"), "project": project, "name": name, "sha256": digest_of(secret), **fields}
    with session() as opened:
        projects.ensure(opened, project)
        if insert_once(opened, KeyRow, [row], conflict=["sha256"]):
            told = {"name": name, "scopes": fields.get("scopes", list(SCOPES))}
            audit.write(project, actor, "key.create", str(row["id"]), told, within=opened)


def check(secret: str) -> Key | None:
    """The key with this secret; None when there is none, or it was revoked, rotated away or has expired."""
    return check_digest(digest_of(secret))


def check_digest(digest: str) -> Key | None:
    """The same by the secret's SHA-256, so that who keeps the answer need not keep the secret."""
    with reading() as opened:
        row = opened.scalars(select(KeyRow).where(KeyRow.sha256 == digest)).one_or_none()
        if row is None:
            retired = opened.get(RetiredRow, digest)
            row = None if retired is None or retired.until <= now() else opened.get(KeyRow, retired.key)
        key = None if row is None else _key(row)
    return key if key is not None and key.live else None


def made(secret: str) -> Key:
    """The key whose newest secret this is, be it as short-lived as it may. Raises NotFound."""
    with reading() as opened:
        row = opened.scalars(select(KeyRow).where(KeyRow.sha256 == digest_of(secret))).one_or_none()
        if row is None:
            raise NotFound("The key has been rotated meanwhile.", remedy="`moatelier keys list` shows it.")
        return _key(row)


def _key(row: KeyRow) -> Key:
    return Key.model_validate(row)


def list_keys(project: str) -> list[Key]:
    """The project's keys, oldest first, revoked ones included."""
    query = select(KeyRow).where(KeyRow.project == project).order_by(KeyRow.created_at, KeyRow.id)
    with reading() as opened:
        return [_key(row) for row in opened.scalars(query)]


def _owned(opened: Session, project: str, id: str) -> KeyRow:
    row = opened.get(KeyRow, id, with_for_update=True)
    if row is None or row.project != project:
        raise NotFound("There is no such key in this project.", where=id, remedy="`moatelier keys list` shows them.")
    return row


def revoke(project: str, id: str, *, actor: str = "store") -> Key:
    """Make a key useless from now on, with every secret it had. Idempotent. Raises NotFound."""
    with session() as opened:
        row = _owned(opened, project, id)
        if row.revoked_at is None:
            row.revoked_at = now()
            audit.write(project, actor, "key.revoke", id, {"name": row.name}, within=opened)
        return _key(row)


def rotate(project: str, id: str, *, grace_s: float = 0.0, actor: str = "store") -> str:
    """Give a key a new secret and return it; id, scopes and limits stay.

    Args:
        project: Whose key it is.
        id: The key.
        grace_s: How long the secret it had is good besides; 0 ends it at once. One from before that ends in any case.
        actor: Who does it.

    Raises:
        NotFound: There is no such key in this project.
        Conflict: It was revoked or has expired.
    """
    secret = _new_secret()
    with session() as opened:
        row = _owned(opened, project, id)
        if not _key(row).live:
            raise Conflict("The key was revoked or has expired.", where=id, remedy="Make a new one.")
        before = opened.scalars(select(RetiredRow).where(RetiredRow.key == id, RetiredRow.until > now()))
        for older in before:
            older.until = now()
        opened.add(RetiredRow(sha256=row.sha256, project=project, key=id, until=now() + timedelta(seconds=grace_s)))
        replaced, row.sha256 = row.sha256, digest_of(secret)
        audit.write(project, actor, "key.rotate", id, {"name": row.name, "grace_s": grace_s}, within=opened)
    _keep_file(replaced, secret)
    return secret


def _keep_file(replaced: str, secret: str) -> None:
    """Where the file for this machine's command line holds the secret that was rotated, it gets the new one."""
    path = keyring.folder() / "admin.key"
    with FileLock(path.with_suffix(".lock")):
        if path.exists() and hmac.compare_digest(digest_bytes(path.read_bytes().strip()), replaced):
            path.unlink()
            keyring.write_once(path, secret.encode())


def ensure_admin() -> str:
    """The secret in `keys/admin.key`; at the first start, or after that key has ended, a new one is made.

    The file is written before the row: a start that dies in between is mended by the next one.
    """
    path = keyring.folder() / "admin.key"
    with FileLock(path.with_suffix(".lock")):
        secret = keyring.write_once(path, _new_secret().encode()).decode().strip()
        if _spent(digest_of(secret)):
            path.unlink()
            secret = keyring.write_once(path, _new_secret().encode()).decode()
        _enter(settings().project, "admin", secret, "store", scopes=list(SCOPES))
    return secret


def _spent(digest: str) -> bool:
    """The secret was good once and is no more: it must not be entered again."""
    if check_digest(digest) is not None:
        return False
    with reading() as opened:
        known = opened.scalars(select(KeyRow.id).where(KeyRow.sha256 == digest)).first()
        return known is not None or opened.get(RetiredRow, digest) is not None
