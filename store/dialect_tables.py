"""The tables of the OpenAI dialect's stored resources; conventions are those of store/tables.py."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from moatelier.contracts import now
from store.tables import Base, Json


class OrderRow(Base):
    """What a program asked of a task, as it asked it; tasks that people talk about have none."""

    __tablename__ = "orders"

    task: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    request: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)


class UploadRow(Base):
    """A file that comes in parts; `keep_s` is how long the file shall be kept once it is whole."""

    __tablename__ = "uploads"
    __table_args__ = (Index(None, "status", "expires_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    name: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    mime_type: Mapped[str]
    status: Mapped[str]
    keep_s: Mapped[int | None]
    file: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]


class PartRow(Base):
    """A part of an upload; its bytes lie in the data directory until the upload ends."""

    __tablename__ = "upload_parts"
    __table_args__ = (Index(None, "upload"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    upload: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"))
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=now)


class StoredEvalRow(Base):
    """An eval of the OpenAI dialect: the shape of its items and the criteria they are judged by."""

    __tablename__ = "evals"
    __table_args__ = (Index(None, "project_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    name: Mapped[str]
    config: Mapped[dict[str, Any]]
    criteria: Mapped[list[dict[str, Any]]]
    meta: Mapped[dict[str, Any]] = mapped_column("metadata", Json)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)


class EvalRunRow(Base):
    """One run of an eval."""

    __tablename__ = "eval_runs"
    __table_args__ = (Index(None, "eval", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    eval: Mapped[str] = mapped_column(ForeignKey("evals.id", ondelete="CASCADE"))
    name: Mapped[str]
    status: Mapped[str]
    source: Mapped[dict[str, Any]]
    criteria: Mapped[list[dict[str, Any]]]
    meta: Mapped[dict[str, Any]] = mapped_column("metadata", Json)
    error: Mapped[dict[str, Any] | None] = mapped_column(Json)
    told: Mapped[dict[str, Any] | None] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(default=now)


class EvalItemRow(Base):
    """One item of a run, judged; `body` holds the item, the sample and the results."""

    __tablename__ = "eval_items"

    run: Mapped[str] = mapped_column(ForeignKey("eval_runs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    project: Mapped[str] = mapped_column("project_id")
    passed: Mapped[bool | None]
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)
