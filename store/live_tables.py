"""The tables of what happens to models that are in use; conventions are those of store/tables.py."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from moatelier.contracts import now
from store.tables import Base, Digest, Json, Serial


class RolloutRow(Base):
    """A challenger on its way to an alias. `open` is the alias while it is under way: an alias has one at a time."""

    __tablename__ = "rollouts"
    __table_args__ = (UniqueConstraint("project_id", "open"), Index(None, "project_id", "created_at"))

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    alias: Mapped[str]
    champion: Mapped[str] = mapped_column(Digest)
    challenger: Mapped[str] = mapped_column(Digest)
    fence: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str]
    open: Mapped[str | None]
    plan: Mapped[dict[str, Any]]
    evidence: Mapped[dict[str, Any] | None] = mapped_column(Json)
    reason: Mapped[str]
    actor: Mapped[str]
    told: Mapped[str] = mapped_column(default="")
    """The state that readers of the event log have heard of."""
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)
    ended_at: Mapped[datetime | None]


class ObservationRow(Base):
    """What was measured of one request: numbers, never words. `good` says whether it was answered as it should be."""

    __tablename__ = "observations"
    __table_args__ = (
        Index(None, "project_id", "model", "id"),
        Index(None, "rollout", "id"),
        Index(None, "at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    project: Mapped[str] = mapped_column("project_id")
    model: Mapped[str]
    chosen: Mapped[str]
    rollout: Mapped[str | None]
    side: Mapped[str | None]
    subject: Mapped[str | None]
    shadow: Mapped[bool] = mapped_column(default=False, server_default=false())
    good: Mapped[bool]
    numbers: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class MonitorRow(Base):
    """How far one model's observations were looked at; `reference` is the artifact that later ones are held against."""

    __tablename__ = "monitors"

    project: Mapped[str] = mapped_column("project_id", primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    chosen: Mapped[str] = mapped_column(primary_key=True)
    reference: Mapped[str | None] = mapped_column(Digest)
    last: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime] = mapped_column(default=now)


class AlertRow(Base):
    """Something that somebody should know. `next_at` is when its delivery is tried next, None when no more."""

    __tablename__ = "alerts"
    __table_args__ = (Index(None, "project_id", "created_at"), Index(None, "next_at"))

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    monitor: Mapped[str]
    model: Mapped[str]
    what: Mapped[str]
    body: Mapped[dict[str, Any]]
    delivery: Mapped[str]
    attempts: Mapped[int]
    next_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    seen_at: Mapped[datetime | None]


class ExchangeRow(Base):
    """What was asked and answered, for whoever judges it; kept where the settings allow. Shown once it is redacted."""

    __tablename__ = "exchanges"
    __table_args__ = (Index(None, "redacted"), Index(None, "at"))

    project: Mapped[str] = mapped_column("project_id", primary_key=True)
    completion: Mapped[str] = mapped_column(primary_key=True)
    messages: Mapped[list[dict[str, Any]]]
    answer: Mapped[str]
    redacted: Mapped[bool]
    at: Mapped[datetime]


class LessonRow(Base):
    """What feedback on one answer teaches: a row to train on, once a person has approved it."""

    __tablename__ = "lessons"
    __table_args__ = (Index(None, "project_id", "alias", "status"),)

    project: Mapped[str] = mapped_column("project_id", primary_key=True)
    completion: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str]
    voice: Mapped[str]
    body: Mapped[dict[str, Any]]
    status: Mapped[str]
    retrain: Mapped[str | None]
    at: Mapped[datetime]
    updated_at: Mapped[datetime] = mapped_column(default=now)


class TriggerRow(Base):
    """When an alias's model is trained again by itself; `next_at` is when its schedule is due."""

    __tablename__ = "triggers"
    __table_args__ = (Index(None, "next_at"),)

    project: Mapped[str] = mapped_column("project_id", primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    plan: Mapped[dict[str, Any]]
    enabled: Mapped[bool]
    next_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)


class RetrainRow(Base):
    """One firing of a trigger. Its file and task bear ids made of its own, so that they are made once."""

    __tablename__ = "retrains"
    __table_args__ = (UniqueConstraint("project_id", "alias", "number"), Index(None, "status"))

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    alias: Mapped[str]
    number: Mapped[int]
    cause: Mapped[str]
    plan: Mapped[dict[str, Any]]
    champion: Mapped[str] = mapped_column(Digest)
    lessons: Mapped[int]
    status: Mapped[str]
    task: Mapped[str | None]
    error: Mapped[dict[str, Any] | None] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)
