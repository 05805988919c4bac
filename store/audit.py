"""The audit log: who did what to what. Each line's hash covers the line before, so none can be changed unseen."""

from collections.abc import Mapping
from contextlib import closing, nullcontext
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from moatelier.contracts import now
from moatelier.errors import IntegrityError
from moatelier.ids import digest_json
from store.db import exclusive, reading, session
from store.tables import AuditRow, Stored

_FIRST = "0" * 64


class Line(Stored):
    """A line of the audit log; `id` counts from 1 over all projects."""

    id: int
    project: str
    at: datetime
    actor: str
    action: str
    subject: str
    body: dict[str, Any]
    previous: str
    hash: str


def write(
    project: str, actor: str, action: str, subject: str, body: Mapping[str, Any], *, within: Session | None = None
) -> None:
    """Add a line.

    Args:
        project: Whose line it is.
        actor: Who did it: a key, a task, or the store itself.
        action: What was done, such as `alias.set`.
        subject: What it was done to.
        body: JSON with the details; no secrets.
        within: A writing transaction of which the line becomes part.
    """
    with session() if within is None else nullcontext(within) as opened:
        exclusive(opened, "audit")
        last = opened.scalars(select(AuditRow).order_by(AuditRow.id.desc()).limit(1)).first()
        row = AuditRow(id=last.id + 1 if last else 1, project=project, at=now(), actor=actor, action=action)
        row.subject, row.body, row.previous = subject, dict(body), last.hash if last else _FIRST
        row.hash = _hash(row)
        opened.add(row)
        opened.flush()


def _hash(row: AuditRow) -> str:
    content = [row.id, row.project, row.at.isoformat(), row.actor, row.action, row.subject, row.body, row.previous]
    return digest_json(content)


def read(project: str, *, after: int = 0, limit: int = 500) -> list[Line]:
    """A project's lines, oldest first."""
    query = select(AuditRow).where(AuditRow.project == project, AuditRow.id > after).order_by(AuditRow.id).limit(limit)
    with reading() as opened:
        return [Line.model_validate(row) for row in opened.scalars(query)]


def verify() -> int:
    """Check the whole chain and return how many lines it has.

    A cut-off end leaves a whole chain: compare the count with an earlier one to see it.

    Raises:
        IntegrityError: A line was changed, added or taken out; `where` names the first that does not fit.
    """
    lines, previous = 0, _FIRST
    query = select(AuditRow).order_by(AuditRow.id).execution_options(yield_per=500)
    with reading() as opened, closing(opened.scalars(query)) as rows:
        for row in rows:
            lines += 1
            if row.id != lines or row.previous != previous or row.hash != _hash(row):
                raise IntegrityError(
                    "The audit log was changed.",
                    where=f"line {lines}",
                    remedy="Restore the store from a backup, and find out who wrote to it.",
                )
            previous = row.hash
    return lines
