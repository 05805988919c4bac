"""How far each model's observations were looked at, and what they are held against."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select

from moatelier.contracts import now
from moatelier.errors import NotFound
from store import audit
from store.db import reading, session
from store.live_tables import MonitorRow
from store.tables import Stored


class Monitor(Stored):
    """One model under one name. `last` is the newest observation that was looked at, `state` the monitors' streaks."""

    project: str
    model: str
    chosen: str
    reference: str | None = None
    last: int = 0
    state: dict[str, Any] = {}
    updated_at: datetime | None = None


def get(project: str, model: str, chosen: str) -> Monitor:
    """What is known of a model; a fresh one where nothing is."""
    with reading() as opened:
        row = opened.get(MonitorRow, (project, model, chosen))
        if row is None:
            return Monitor(project=project, model=model, chosen=chosen)
        return Monitor.model_validate(row)


def put(monitor: Monitor, *, last: int, state: Mapping[str, Any], reference: str | None) -> bool:
    """Write down how far it was looked; whether nobody else has looked meanwhile. For the worker."""
    with session() as opened:
        key = monitor.project, monitor.model, monitor.chosen
        row = opened.get(MonitorRow, key, with_for_update=True)
        if (row.last if row is not None else 0) != monitor.last:
            return False
        fields = {"last": last, "state": dict(state), "reference": reference, "updated_at": now()}
        opened.merge(MonitorRow(project=key[0], model=key[1], chosen=key[2], **fields))
        return True


def list_monitors(project: str) -> list[Monitor]:
    """The project's models that are watched."""
    query = select(MonitorRow).where(MonitorRow.project == project).order_by(MonitorRow.model, MonitorRow.chosen)
    with reading() as opened:
        return [Monitor.model_validate(row) for row in opened.scalars(query)]


def reset(project: str, model: str, *, actor: str) -> int:
    """Take what comes from now on for what is usual; how many were reset.

    Raises:
        NotFound: No model of this name is watched.
    """
    with session() as opened:
        mine = MonitorRow.project == project, MonitorRow.model == model
        rows = list(opened.scalars(select(MonitorRow).where(*mine)))
        if not rows:
            raise NotFound("No model of this name is watched yet.", where=model, remedy="GET /v1/monitors lists them.")
        for row in rows:
            row.reference, row.state, row.updated_at = None, {}, now()
        audit.write(project, actor, "monitor.reset", model, {}, within=opened)
        return len(rows)


def forget(before: datetime) -> None:
    """Delete what nobody has asked for since. For the sweeper."""
    with session() as opened:
        opened.execute(delete(MonitorRow).where(MonitorRow.updated_at < before))
