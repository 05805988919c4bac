"""The append-only event log that feeds every stream. Ids grow in the order in which readers see the lines."""

import math
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select

from moatelier.contracts import Event
from store.db import exclusive, insert_once, reading, session
from store.tables import EventRow


def append(events: Sequence[Event]) -> None:
    """Write events in order; one whose (job, kind, step) is there already is dropped. All or none.

    Numbers that JSON lacks (a loss that became NaN) are written as null.
    """
    if not events:
        return
    rows = [
        event.model_dump(exclude={"id"}) | {"body": _finite(event.model_dump(mode="json")["body"])} for event in events
    ]
    with session() as opened:
        # Ids are given out here and seen at the commit: without the lock a reader on Postgres could see 8 before 7.
        exclusive(opened, "events")
        insert_once(opened, EventRow, rows, conflict=("job", "kind", "step"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(
    project: str, *, stream: str | None = None, task: str | None = None, after: int = 0, limit: int = 500
) -> list[Event]:
    """Events with an id above `after`, oldest first, at most `limit`."""
    query = _of(select(EventRow), project, stream, task).where(EventRow.id > after)
    with reading() as opened:
        return [_event(row) for row in opened.scalars(query.order_by(EventRow.id).limit(limit))]


def newest(
    project: str, *, task: str, kinds: Collection[str], before: int | None = None, limit: int = 20
) -> list[Event]:
    """A task's events of some kinds with an id below `before`, newest first, at most `limit`."""
    query = _of(select(EventRow), project, None, task).where(EventRow.kind.in_(sorted(kinds)))
    if before is not None:
        query = query.where(EventRow.id < before)
    with reading() as opened:
        return [_event(row) for row in opened.scalars(query.order_by(EventRow.id.desc()).limit(limit))]


def find(project: str, job: str, kind: str, step: int = 0) -> Event | None:
    """The one event of this identity, None when it has not happened."""
    query = select(EventRow).where(EventRow.job == job, EventRow.kind == kind, EventRow.step == step)
    with reading() as opened:
        row = opened.scalar(query.where(EventRow.project == project))
        return None if row is None else _event(row)


def last_id(project: str, *, stream: str | None = None, task: str | None = None, before: datetime | None = None) -> int:
    """The id of the newest event, of those before a moment if one is given; 0 when there is none."""
    query = _of(select(func.max(EventRow.id)), project, stream, task)
    if before is not None:
        query = query.where(EventRow.at < before)
    with reading() as opened:
        return opened.scalar(query) or 0


def _of(query: Select[Any], project: str, stream: str | None, task: str | None) -> Select[Any]:
    query = query.where(EventRow.project == project)
    if stream is not None:
        query = query.where(EventRow.stream == stream)
    if task is not None:
        query = query.where(EventRow.task == task)
    return query


def _event(row: EventRow) -> Event:
    return Event.model_validate(row, from_attributes=True)
