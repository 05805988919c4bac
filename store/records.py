"""Signed records about adapters and recipes: what was found, what was decided. Each is signed once, with Ed25519."""

from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from sqlalchemy import func, select

from moatelier.contracts import Contract, now
from moatelier.errors import IntegrityError, NotFound
from moatelier.ids import canonical_json, digest_bytes
from store import keyring
from store.db import insert_once, reading, session
from store.tables import RecordRow, Stored

RecordKind = Literal[
    "eval_report",
    "gate_decision",
    "promotion",
    "router_profile",
    "router_card",
    "mixture_decision",
    "retention",
    "parity",
]


class Record(Stored):
    """A signed record. `subject` is the digest of the bundle or recipe it is about.

    (kind, key) is its name within the project, `digest` is that of the signed content, `signature` hex, `signer` the
    public key in hex.
    """

    project: str
    kind: RecordKind
    key: str
    subject: str
    body: dict[str, Any]
    digest: str
    signature: str
    signer: str
    created_at: datetime

    @property
    def content(self) -> bytes:
        """The bytes that are signed."""
        named = {name: getattr(self, name) for name in ("project", "kind", "key", "subject", "body")}
        return canonical_json(named | {"created_at": self.created_at.isoformat()})


def sign(project: str, kind: RecordKind, subject: str, key: str, body: Contract) -> str:
    """Sign a record and keep it; its digest. Idempotent by (kind, key): the first one stands, whatever comes later."""
    record = Record(
        project=project,
        kind=kind,
        key=key,
        subject=subject,
        body=body.model_dump(mode="json"),
        digest="",
        signature="",
        signer=public_key(),
        created_at=now(),
    )
    signed = {"digest": digest_bytes(record.content), "signature": _private_key().sign(record.content).hex()}
    with session() as opened:
        insert_once(opened, RecordRow, [record.model_dump() | signed], conflict=["project_id", "kind", "key"])
        return opened.get_one(RecordRow, (project, kind, key)).digest


def get(project: str, kind: RecordKind, key: str) -> Record:
    """A verified record. Raises NotFound, and IntegrityError like `verify`."""
    with reading() as opened:
        row = opened.get(RecordRow, (project, kind, key))
        if row is None:
            raise NotFound("There is no such record.", where=f"{kind} {key}")
        record = Record.model_validate(row)
    verify(record)
    return record


def newest(project: str, kind: RecordKind, subject: str) -> Record:
    """The newest verified record of a kind about a subject. Raises NotFound, and IntegrityError like `verify`."""
    query = select(RecordRow).where(RecordRow.project == project, RecordRow.kind == kind, RecordRow.subject == subject)
    with reading() as opened:
        row = opened.scalar(query.order_by(RecordRow.created_at.desc(), RecordRow.key.desc()).limit(1))
        if row is None:
            raise NotFound("There is no such record.", where=f"{kind} of {subject}")
        record = Record.model_validate(row)
    verify(record)
    return record


def list_records(project: str, subject: str) -> list[Record]:
    """All verified records about a subject, oldest first. Raises IntegrityError like `verify`."""
    query = select(RecordRow).where(RecordRow.project == project, RecordRow.subject == subject)
    with reading() as opened:
        records = [Record.model_validate(row) for row in opened.scalars(query.order_by(RecordRow.created_at))]
    for record in records:
        verify(record)
    return records


def list_kind(project: str, kind: RecordKind) -> list[Record]:
    """All verified records of a kind, oldest first. Raises IntegrityError like `verify`."""
    query = select(RecordRow).where(RecordRow.project == project, RecordRow.kind == kind)
    with reading() as opened:
        rows = opened.scalars(query.order_by(RecordRow.created_at, RecordRow.key))
        records = [Record.model_validate(row) for row in rows]
    for record in records:
        verify(record)
    return records


def count(project: str, kind: RecordKind) -> int:
    """How many records of a kind there are; they are only ever added, so an equal count is an equal list."""
    query = select(func.count()).select_from(RecordRow)
    with reading() as opened:
        return opened.scalar(query.where(RecordRow.project == project, RecordRow.kind == kind)) or 0


def verify(record: Record) -> None:
    """Check that the record is what was signed, with this data directory's key.

    Raises:
        IntegrityError: It was changed, or another key signed it.
    """
    where = f"{record.kind} {record.key}"
    if record.signer != public_key():
        raise IntegrityError("A record was signed with another key.", where=where, remedy="Restore `keys/signing.pem`.")
    try:
        _private_key().public_key().verify(bytes.fromhex(record.signature), record.content)
        whole = record.digest == digest_bytes(record.content)
    except (InvalidSignature, ValueError):
        whole = False
    if not whole:
        raise IntegrityError("A signed record was changed.", where=where, remedy="Restore the store from a backup.")


def public_key() -> str:
    """The public half of the signing key, in hex, for whoever verifies records elsewhere."""
    return _private_key().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def _private_key() -> Ed25519PrivateKey:
    path = keyring.folder() / "signing.pem"
    if not path.exists():
        fresh = Ed25519PrivateKey.generate()
        keyring.write_once(path, fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return _load(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _load(path: Path, _changed_at: int) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        raise IntegrityError("The signing key cannot be read.", where=str(path), remedy="Restore it.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise IntegrityError("The signing key is not an Ed25519 key.", where=str(path), remedy="Restore it.")
    return key
