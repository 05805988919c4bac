"""Alerts: what somebody should know, raised once, delivered until it is taken, within a budget."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import func, select

from moatelier.contracts import now
from moatelier.errors import NotFound
from moatelier.ids import digest_json
from moatelier.settings import settings
from store.db import insert_once, reading, session
from store.live_tables import AlertRow
from store.tables import Stored

Delivery = Literal["logged", "pending", "delivered", "failed"]
"""`logged`: it is in the log, and no webhook is set. `pending`: the webhook has not taken it yet."""
WAITS_S = (5.0, 30.0, 120.0, 600.0, 3600.0)
"""Between attempts at the webhook; after the last one it is given up."""


class Alert(Stored):
    """One alert."""

    id: str
    project: str
    monitor: str
    model: str
    what: str
    body: dict[str, Any]
    delivery: Delivery
    attempts: int
    next_at: datetime | None
    created_at: datetime
    seen_at: datetime | None


def raise_once(
    project: str, monitor: str, model: str, what: str, body: Mapping[str, Any], *, about: str, calm: bool = False
) -> Alert | None:
    """Write an alert down, once for what it is about.

    Args:
        project: Whose.
        monitor: What noticed it.
        model: The model's name in requests.
        what: It in a sentence, without anybody's words.
        body: Numbers about it.
        about: What makes it the same alert, such as a rollout's id.
        calm: A monitor's, which may see the same again and again: within its cooldown and the day's budget.

    Returns:
        The alert if it is new; None where it was raised before, or a monitor is to be calm.
    """
    id = f"alert-{digest_json([project, monitor, model, about])[:12]}"
    webhook = settings().alert_webhook is not None
    row: dict[str, Any] = {
        "id": id,
        "project": project,
        "monitor": monitor,
        "model": model,
        "what": what,
        "body": dict(body),
        "delivery": "pending" if webhook else "logged",
        "attempts": 0,
        "next_at": now() if webhook else None,
    }
    with session() as opened:
        mine = select(func.count()).select_from(AlertRow).where(AlertRow.project == project)
        day = mine.where(AlertRow.created_at >= now() - timedelta(days=1))
        if calm and (opened.scalar(day) or 0) >= settings().alerts_per_day:
            return None
        cooled = now() - timedelta(seconds=settings().alert_cooldown_s)
        same = mine.where(AlertRow.monitor == monitor, AlertRow.model == model, AlertRow.created_at > cooled)
        if calm and opened.scalar(same):
            return None
        if not insert_once(opened, AlertRow, [row], conflict=["id"]):
            return None
        return Alert.model_validate(opened.get_one(AlertRow, id))


def list_alerts(project: str, *, unseen: bool = False, limit: int = 100) -> list[Alert]:
    """The project's alerts, newest first; with `unseen` those that nobody has acknowledged."""
    query = select(AlertRow).where(AlertRow.project == project)
    if unseen:
        query = query.where(AlertRow.seen_at.is_(None))
    with reading() as opened:
        rows = opened.scalars(query.order_by(AlertRow.created_at.desc(), AlertRow.id).limit(limit))
        return [Alert.model_validate(row) for row in rows]


def acknowledge(project: str, id: str) -> Alert:
    """Somebody has seen it. Idempotent. Raises NotFound."""
    with session() as opened:
        row = opened.get(AlertRow, id, with_for_update=True)
        if row is None or row.project != project:
            raise NotFound("There is no such alert in this project.", where=id, remedy="`moatelier alerts list`.")
        row.seen_at = row.seen_at or now()
        return Alert.model_validate(row)


def due(limit: int = 20) -> list[Alert]:
    """Alerts of all projects that wait for the webhook, oldest first. For the sweeper."""
    query = select(AlertRow).where(AlertRow.next_at <= now()).order_by(AlertRow.next_at).limit(limit)
    with reading() as opened:
        return [Alert.model_validate(row) for row in opened.scalars(query)]


def tried(id: str, taken: bool) -> Alert:
    """The webhook has taken an alert, or has not. For the sweeper."""
    with session() as opened:
        row = opened.get_one(AlertRow, id)
        row.attempts += 1
        if taken:
            row.delivery, row.next_at = "delivered", None
        elif row.attempts > len(WAITS_S):
            row.delivery, row.next_at = "failed", None
        else:
            row.next_at = now() + timedelta(seconds=WAITS_S[row.attempts - 1])
        return Alert.model_validate(row)
