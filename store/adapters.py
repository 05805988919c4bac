"""The register of adapters, and the aliases that point at them."""

import re
from datetime import datetime
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz, process
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from moatelier.contracts import AdapterManifest, now
from moatelier.errors import Conflict, InvalidRequest, NotFound
from moatelier.ids import model_id
from moatelier.settings import settings
from store import audit
from store.db import exclusive, insert_once, reading, session
from store.tables import AdapterRow, AliasRow, Stored

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ALIAS = re.compile(
    r"(?!auto$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
)  # no colon and no slash: `ft:...` and `moa/...` are taken


class AdapterRecord(Stored):
    """A registered adapter, with the aliases that point at it now."""

    digest: str
    project: str
    model_id: str
    suffix: str
    base: str
    task: str
    manifest: AdapterManifest
    aliases: tuple[str, ...]
    created_at: datetime


def bundle_path(digest: str) -> Path:
    """Where the sealed bundle of this digest lies, or will. Raises NotFound if this can be no digest."""
    if not _DIGEST.fullmatch(digest):
        raise NotFound("This is not the digest of a bundle.", where=digest)
    return settings().home / "adapters" / digest


def register(project: str, manifest: AdapterManifest, task: str) -> AdapterRecord:
    """Enter an adapter under its manifest's digest, without an alias. Idempotent: the first entry stays."""
    digest = manifest.digest
    row: dict[str, Any] = {
        "project": project,
        "digest": digest,
        "task": task,
        "manifest": manifest.model_dump(mode="json"),
    }
    row |= {
        "suffix": manifest.suffix,
        "base": manifest.base,
        "model_id": model_id(manifest.base, manifest.suffix, digest),
    }
    with session() as opened:
        if insert_once(opened, AdapterRow, [row], conflict=["project_id", "digest"]):
            audit.write(project, task, "adapter.register", digest, {"model_id": row["model_id"]}, within=opened)
        return _record(opened, opened.get_one(AdapterRow, (project, digest)))


def _record(opened: Session, row: AdapterRow) -> AdapterRecord:
    query = select(AliasRow.alias).where(AliasRow.project == row.project, AliasRow.digest == row.digest)
    plain = {name: getattr(row, name) for name in AdapterRecord.model_fields if name != "aliases"}
    return AdapterRecord(aliases=tuple(opened.scalars(query.order_by(AliasRow.alias))), **plain)


def get(project: str, name: str) -> AdapterRecord:
    """The adapter that a digest, a model id or an alias names.

    Raises:
        NotFound: Nothing has this name; the remedy lists names that are near.
        Conflict: Two adapters share this model id.
    """
    pointed = select(AliasRow.digest).where(AliasRow.project == project, AliasRow.alias == name).scalar_subquery()
    named = or_(AdapterRow.digest == name, AdapterRow.model_id == name, AdapterRow.digest == pointed)
    with reading() as opened:
        rows = opened.scalars(select(AdapterRow).where(AdapterRow.project == project, named).limit(2)).all()
        if not rows:
            raise NotFound("There is no such adapter.", where=name, remedy=_near(opened, project, name))
        if len(rows) > 1:
            raise Conflict("Two adapters share this model id.", where=name, remedy="Ask for one by its whole digest.")
        return _record(opened, rows[0])


def _near(opened: Session, project: str, name: str) -> str:
    names = [*opened.scalars(select(AliasRow.alias).where(AliasRow.project == project))]
    names += opened.scalars(select(AdapterRow.model_id).where(AdapterRow.project == project))
    near = [found for found, _, _ in process.extract(name, names, scorer=fuzz.WRatio, score_cutoff=60, limit=3)]
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return (
        "`moatelier adapters list` shows what there is." if names else "No adapter has been made in this project yet."
    )


def list_adapters(project: str) -> list[AdapterRecord]:
    """The project's adapters, newest first."""
    query = select(AdapterRow).where(AdapterRow.project == project)
    query = query.order_by(AdapterRow.created_at.desc(), AdapterRow.digest)
    with reading() as opened:
        return [_record(opened, row) for row in opened.scalars(query).all()]


def count(project: str) -> int:
    """How many adapters the project has."""
    with reading() as opened:
        return opened.scalar(select(func.count()).select_from(AdapterRow).where(AdapterRow.project == project)) or 0


def set_alias(project: str, alias: str, digest: str, *, fence: int, actor: str) -> None:
    """Point an alias at an adapter, in one transaction with its line in the audit log.

    Args:
        project: Whose alias it is.
        alias: Letters, digits, dots, dashes and underscores, at most 64; not `auto`.
        digest: A registered adapter.
        fence: A number that grows with every decision about this alias. A writer that comes late, with one that is
            not above the stored one, is refused; the same decision again changes nothing.
        actor: Who decided it.

    Raises:
        InvalidRequest: This can be no alias.
        NotFound: The adapter is not registered.
        Conflict: The fence is not above the stored one.
    """
    with session() as opened:
        point(opened, project, alias, digest, fence=fence, actor=actor)


def point(opened: Session, project: str, alias: str, digest: str, *, fence: int, actor: str) -> None:
    """`set_alias` within a transaction, so that what goes with it is written with it or not at all."""
    if not _ALIAS.fullmatch(alias):
        raise InvalidRequest(
            "This cannot be an alias.", where=alias, remedy="Use letters, digits, dots and dashes; not `auto`."
        )
    exclusive(opened, "aliases")
    if opened.get(AdapterRow, (project, digest)) is None:
        raise NotFound("There is no such adapter to point at.", where=digest, remedy="Register it first.")
    row = opened.get(AliasRow, (project, alias))
    if row is not None and (row.digest, row.fence) == (digest, fence):
        return
    if row is not None and fence <= row.fence:
        raise Conflict(
            f"A later decision (fence {row.fence}) has already moved this alias; {fence} comes too late.",
            where=alias,
            remedy="Read where it points now, and decide again.",
        )
    before = row.digest if row is not None else None
    opened.merge(AliasRow(project=project, alias=alias, digest=digest, fence=fence, updated_at=now()))
    body = {"digest": digest, "before": before, "fence": fence}
    audit.write(project, actor, "alias.set", alias, body, within=opened)


def alias_of(project: str, alias: str) -> tuple[str, int] | None:
    """The digest an alias points at and its fence; None when there is no such alias."""
    with reading() as opened:
        row = opened.get(AliasRow, (project, alias))
        return None if row is None else (row.digest, row.fence)
