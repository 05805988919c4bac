"""What was measured of requests: numbers by request, for rollouts and monitors. No words are kept here."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, or_, select

from moatelier.contracts import Observation, now
from store.db import reading, session
from store.live_tables import ObservationRow
from store.tables import Stored

MOST = 1_000_000
"""Observations that are kept, of all projects together: some half a gigabyte."""


class Seen(Stored):
    """One request as it was observed; `good`: it was answered as it should be."""

    id: int
    project: str
    model: str
    chosen: str
    rollout: str | None
    side: str | None
    subject: str | None
    shadow: bool
    good: bool
    numbers: dict[str, Any]
    at: datetime


def append(found: Sequence[Observation]) -> None:
    """Keep observations, in order. All or none."""
    if not found:
        return
    with session() as opened:
        opened.add_all([ObservationRow(**each.model_dump()) for each in found])


class Drawn(Stored):
    """Of one request that a rollout has drawn: for whom, which side, and whether it was answered as it should be."""

    subject: str | None
    side: str | None
    shadow: bool
    good: bool


def of_rollout(project: str, rollout: str) -> list[Drawn]:
    """What was observed of a rollout, in order."""
    columns = ObservationRow.subject, ObservationRow.side, ObservationRow.shadow, ObservationRow.good
    query = select(*columns).where(ObservationRow.project == project, ObservationRow.rollout == rollout)
    with reading() as opened:
        return [Drawn.model_validate(row) for row in opened.execute(query.order_by(ObservationRow.id)).all()]


def newest(rollout: str) -> int:
    """The id of the newest observation of a rollout; 0 without any. For the worker."""
    with reading() as opened:
        return opened.scalar(select(func.max(ObservationRow.id)).where(ObservationRow.rollout == rollout)) or 0


def models(after: int) -> list[tuple[str, str, str, int]]:
    """(project, model, chosen, newest id) of what was observed after an id, of all projects. For the worker."""
    named = ObservationRow.project, ObservationRow.model, ObservationRow.chosen
    query = select(*named, func.max(ObservationRow.id)).where(ObservationRow.id > after, ~ObservationRow.shadow)
    with reading() as opened:
        rows = opened.execute(query.group_by(*named).order_by(*named)).all()
        return [(project, model, chosen, newest) for project, model, chosen, newest in rows]


def after(project: str, model: str, chosen: str, last: int, limit: int) -> list[Seen]:
    """A model's observations with an id above `last`, oldest first; those in the shadow are left out."""
    query = select(ObservationRow).where(ObservationRow.project == project, ObservationRow.model == model)
    query = query.where(ObservationRow.chosen == chosen, ObservationRow.id > last, ~ObservationRow.shadow)
    with reading() as opened:
        return [Seen.model_validate(row) for row in opened.scalars(query.order_by(ObservationRow.id).limit(limit))]


def window(project: str, model: str, chosen: str, *, after: int, upto: int, limit: int) -> list[Seen]:
    """A model's newest observations with ids above `after` and up to `upto`, oldest first."""
    query = select(ObservationRow).where(ObservationRow.project == project, ObservationRow.model == model)
    query = query.where(ObservationRow.chosen == chosen, ObservationRow.id > after, ObservationRow.id <= upto)
    query = query.where(~ObservationRow.shadow).order_by(ObservationRow.id.desc()).limit(limit)
    with reading() as opened:
        return [Seen.model_validate(row) for row in opened.scalars(query)][::-1]


def forget(days: float) -> None:
    """Delete what is older than so many days, and all but the newest `MOST`. For the sweeper."""
    old = or_(ObservationRow.at < now() - timedelta(days=days), ObservationRow.id <= _last_id() - MOST)
    with session() as opened:
        opened.execute(delete(ObservationRow).where(old))


def _last_id() -> int:
    with reading() as opened:
        return opened.scalar(select(func.max(ObservationRow.id))) or 0


def summary(project: str, model: str, chosen: str, limit: int = 1000) -> Mapping[str, Any]:
    """Count, mean and quantiles of each number over a model's newest observations."""
    query = select(ObservationRow.numbers).where(ObservationRow.project == project, ObservationRow.model == model)
    query = query.where(ObservationRow.chosen == chosen, ~ObservationRow.shadow)
    with reading() as opened:
        rows = list(opened.scalars(query.order_by(ObservationRow.id.desc()).limit(limit)))
    told: dict[str, Any] = {}
    for name in sorted({name for row in rows for name in row}):
        values = sorted(row[name] for row in rows if isinstance(row.get(name), int | float))
        if values:
            told[name] = {
                "count": len(values),
                "mean": round(sum(values) / len(values), 4),
                "p50": values[len(values) // 2],
                "p95": values[min(len(values) - 1, int(0.95 * len(values)))],
            }
    return told
