"""Crons: runs that are started again and again by a schedule. The worker's sweeper fires them (graphs/worker.py).

A firing is one transaction: the run is written and the next time is set together, so that whoever dies when, no time
is fired twice. Times that passed while nothing ran are made up for by one run.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterError, croniter
from pydantic import Field
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from moatelier.contracts import now
from moatelier.errors import Conflict, InvalidRequest, NotFound
from moatelier.ids import digest_json, new_id
from store.db import reading, session
from store.runs import Run, enter_run
from store.tables import CronRow, Stored, ThreadRow
from store.threads import has, owned

MOST = 100
"""Crons of a project."""
Completed = Literal["delete", "keep"]
SORTED = {
    "cron_id": CronRow.id,
    "thread_id": CronRow.thread,
    "created_at": CronRow.created_at,
    "updated_at": CronRow.updated_at,
    "next_run_date": CronRow.next_at,
    "end_time": CronRow.end_time,
}
_MUTABLE = frozenset({"schedule", "timezone", "input", "metadata", "on_run_completed", "enabled", "end_time"})


class Cron(Stored):
    """A run that is started again and again, on a thread of its own each time if it names none."""

    id: str
    project: str
    thread: str | None
    schedule: str
    timezone: str | None
    input: dict[str, Any]
    metadata: dict[str, Any] = Field(validation_alias="meta")
    on_run_completed: Completed
    enabled: bool
    end_time: datetime | None
    next_at: datetime | None
    created_at: datetime
    updated_at: datetime


def next_time(schedule: str, timezone: str | None, after: datetime) -> datetime:
    """When a schedule comes round next, in UTC.

    Args:
        schedule: Five fields: minute, hour, day of the month, month, day of the week.
        timezone: An IANA name; None is UTC.
        after: An aware time.

    An hour that is named comes once on the day on which clocks are set back, and one that is left out on the day on
    which they are set forward comes at its end.

    Raises:
        InvalidRequest: It is no schedule, never comes round, or there is no such time zone.
    """
    remedy = "Send five fields, such as `0 3 * * 1` for Mondays at three."
    if len(schedule.split()) != 5:
        raise InvalidRequest(f"{schedule!r} is no schedule.", where="schedule", remedy=remedy)
    try:
        zone = ZoneInfo(timezone) if timezone else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidRequest(
            f"There is no time zone {timezone!r}.", where="timezone", remedy="Use an IANA name such as Europe/Berlin."
        ) from error
    try:
        coming = croniter(schedule, after.astimezone(zone))
        found: datetime = coming.get_next(datetime)
        while found.astimezone(zone).fold and not schedule.split()[1].startswith("*"):
            found = coming.get_next(datetime)  # clocks were set back: the hour that it names has been
    except (CroniterError, ValueError, KeyError) as error:
        raise InvalidRequest(f"{schedule!r} is no schedule: {error}.", where="schedule", remedy=remedy) from error
    return found.astimezone(UTC)


def create(
    project: str,
    *,
    thread: str | None,
    schedule: str,
    input: Mapping[str, Any],
    timezone: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    on_run_completed: Completed = "delete",
    enabled: bool = True,
    end_time: datetime | None = None,
) -> Cron:
    """Write a cron down.

    Raises:
        InvalidRequest: The schedule or the time zone is none.
        NotFound: There is no such thread in this project.
        Conflict: The project has `MOST` already.
    """
    row = CronRow(id=new_id("cron"), project=project, thread=thread, schedule=schedule, timezone=timezone)
    row.input, row.meta, row.on_run_completed = dict(input), dict(metadata or {}), on_run_completed
    row.enabled, row.end_time = enabled, end_time
    _plan(row)
    with session() as opened:
        if thread is not None:
            owned(opened, project, thread)
        if (opened.scalar(select(func.count()).where(CronRow.project == project)) or 0) >= MOST:
            raise Conflict(f"The project has {MOST} crons.", where="crons", remedy="Delete one that is not needed.")
        opened.add(row)
        opened.flush()
        return Cron.model_validate(row)


def _plan(row: CronRow, at: datetime | None = None) -> None:
    """Set when it is due next: not while it is off, nor after its end."""
    following = next_time(row.schedule, row.timezone, at or now())
    over = row.end_time is not None and following > row.end_time
    row.next_at = following if row.enabled and not over else None


def _owned(opened: Session, project: str, id: str) -> CronRow:
    row = opened.get(CronRow, id, with_for_update=True)
    if row is None or row.project != project:
        raise NotFound("There is no such cron in this project.", where=id, remedy="POST /runs/crons/search lists them.")
    return row


def change(project: str, id: str, **fields: Any) -> Cron:
    """Change a cron; when it is due next is found anew. Raises like `create`.

    Args:
        project: Whose it is.
        id: The cron.
        **fields: Any of schedule, timezone, input, metadata, on_run_completed, enabled, end_time.
    """
    assert fields.keys() <= _MUTABLE, f"not fields that change: {fields.keys() - _MUTABLE}"
    with session() as opened:
        row = _owned(opened, project, id)
        for name, value in fields.items():
            setattr(row, "meta" if name == "metadata" else name, value)
        row.updated_at = now()
        _plan(row)
        return Cron.model_validate(row)


def delete(project: str, id: str) -> None:
    """Forget a cron; runs that it started stay. Raises NotFound."""
    with session() as opened:
        opened.delete(_owned(opened, project, id))


def search(
    project: str,
    *,
    limit: int = 10,
    offset: int = 0,
    sort_by: str = "created_at",
    descending: bool = True,
    **wanted: Any,
) -> list[Cron]:
    """Crons that match, newest first by default.

    Args:
        project: Whose.
        limit: At most so many.
        offset: Without the first ones.
        sort_by: A key of `SORTED`.
        descending: The greatest first.
        **wanted: Any of `thread`, `enabled` and `metadata`; None matches all.
    """
    query = select(CronRow).where(*_matching(project, **wanted))
    order = [column.desc() if descending else column.asc() for column in (SORTED[sort_by], CronRow.id)]
    with reading() as opened:
        return [Cron.model_validate(row) for row in opened.scalars(query.order_by(*order).limit(limit).offset(offset))]


def count(project: str, **wanted: Any) -> int:
    """How many crons `search` would find."""
    with reading() as opened:
        return opened.scalar(select(func.count()).select_from(CronRow).where(*_matching(project, **wanted))) or 0


def _matching(
    project: str, thread: str | None = None, enabled: bool | None = None, metadata: Mapping[str, Any] | None = None
) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [CronRow.project == project]
    if thread is not None:
        found.append(CronRow.thread == thread)
    if enabled is not None:
        found.append(CronRow.enabled.is_(enabled))
    return found + [has(CronRow.meta, "metadata", key, value) for key, value in (metadata or {}).items()]


def due(at: datetime | None = None) -> list[str]:
    """The ids of the crons of all projects whose time has come, for the sweeper."""
    query = select(CronRow.id).where(CronRow.next_at <= (at or now())).order_by(CronRow.next_at)
    with reading() as opened:
        return list(opened.scalars(query))


def fire(id: str, at: datetime | None = None) -> Run | None:
    """Write the run of a cron that is due and set its next time; None when there is nothing to do.

    On a thread that is busy, or that waits for a person's answer (which this is not), the cron stays due.
    """
    moment = at or now()
    with session() as opened:
        row = opened.get(CronRow, id, with_for_update=True)
        if row is None or row.next_at is None or row.next_at > moment:
            return None
        thread = _thread(opened, row)
        if thread is None:
            return None
        run = f"run-{digest_json([row.id, row.next_at.isoformat()])[:12]}"
        entered = enter_run(opened, row.project, run, thread, row.input, metadata={**row.meta, "cron_id": row.id})
        _plan(row, moment)
        return entered


def _thread(opened: Session, row: CronRow) -> str | None:
    if row.thread is not None:
        above = owned(opened, row.project, row.thread)
        return row.thread if above.status in ("idle", "error") else None
    made = ThreadRow(id=new_id("thread"), project=row.project, graph="conversation", status="idle", task=None)
    made.meta, made.values, made.interrupts = {**row.meta, "graph_id": "conversation", "cron_id": row.id}, {}, []
    made.stateless = row.on_run_completed == "delete"
    opened.add(made)
    opened.flush()
    return made.id
