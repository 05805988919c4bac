"""The tables of the store, the same on SQLite and Postgres. Every one carries `project_id`.

Attributes are named like the fields of the records that the other modules hand out (`project` for `project_id`), so
that a record is made of a row by `Record.model_validate(row)`.
"""

from datetime import UTC, datetime
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from moatelier.contracts import now


class Stored(BaseModel):
    """Base of the records that the store hands out: frozen copies, detached from the database."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True, hide_input_in_errors=True)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite forgets time zones; what is read is aware on both databases."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store in UTC; a naive time is our own mistake."""
        if value is None:
            return None
        assert value.tzinfo is not None, "the store takes aware times only"
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Read as aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Json = JSON(none_as_null=True)
Digest = String(64)
Serial = BigInteger().with_variant(Integer, "sqlite")  # only an INTEGER primary key counts by itself on SQLite


class Base(DeclarativeBase):
    """Declarative base; constraint names are fixed so that later migrations can refer to them on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime(),
        dict[str, Any]: Json,
        list[dict[str, Any]]: Json,
        list[str]: Json,
        str: Text(),
        bool: Boolean(),
    }


class FileRow(Base):
    """An uploaded file; its bytes are the artifact `sha256`."""

    __tablename__ = "files"
    __table_args__ = (Index(None, "project_id", "created_at"), Index(None, "sha256"))

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    name: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(Digest)
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]


class CardRow(Base):
    """A curated dataset of a task; the card is the artifact `digest`."""

    __tablename__ = "dataset_cards"

    project: Mapped[str] = mapped_column("project_id", primary_key=True)
    digest: Mapped[str] = mapped_column(Digest, primary_key=True)
    task: Mapped[str]
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)


class TaskRow(Base):
    """What a person asked for and how far it is."""

    __tablename__ = "tasks"
    __table_args__ = (Index(None, "project_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    thread: Mapped[str]
    conversation: Mapped[str]
    request: Mapped[str]
    status: Mapped[str]
    name: Mapped[str] = mapped_column(default="")
    train_file: Mapped[str]
    test_file: Mapped[str | None]
    plan: Mapped[dict[str, Any] | None] = mapped_column(Json)
    result: Mapped[dict[str, Any] | None] = mapped_column(Json)
    error: Mapped[dict[str, Any] | None] = mapped_column(Json)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)
    ended_at: Mapped[datetime | None]


class ThreadRow(Base):
    """A thread of a graph, as its readers see it; the graph's own state is in the checkpoints."""

    __tablename__ = "threads"
    __table_args__ = (Index(None, "project_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    graph: Mapped[str]
    status: Mapped[str]
    task: Mapped[str | None]
    meta: Mapped[dict[str, Any]] = mapped_column("metadata", Json)
    values: Mapped[dict[str, Any]]
    interrupts: Mapped[list[dict[str, Any]]]
    stateless: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Made for one run, and forgotten some time after it."""
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)


class RunRow(Base):
    """One input to, or one resumption of, a thread."""

    __tablename__ = "runs"
    __table_args__ = (Index(None, "thread", "created_at"), Index(None, "status", "created_at"))

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    thread: Mapped[str] = mapped_column(ForeignKey("threads.id", ondelete="CASCADE"))
    status: Mapped[str]
    input: Mapped[dict[str, Any] | None] = mapped_column(Json)
    command: Mapped[dict[str, Any] | None] = mapped_column(Json)
    error: Mapped[dict[str, Any] | None] = mapped_column(Json)
    meta: Mapped[dict[str, Any] | None] = mapped_column("metadata", Json)
    state: Mapped[dict[str, Any] | None] = mapped_column(Json, deferred=True)
    hidden: Mapped[bool] = mapped_column(default=False, server_default=false())
    last_event: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)


class AdapterRow(Base):
    """A registered adapter; its bundle lies in the data directory."""

    __tablename__ = "adapters"
    __table_args__ = (Index(None, "project_id", "model_id"),)

    project: Mapped[str] = mapped_column("project_id", primary_key=True)
    digest: Mapped[str] = mapped_column(Digest, primary_key=True)
    model_id: Mapped[str]
    suffix: Mapped[str]
    base: Mapped[str]
    task: Mapped[str]
    manifest: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)


class AliasRow(Base):
    """A name that points at an adapter. `fence` only grows: a late writer with an old one is refused."""

    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(["project_id", "digest"], ["adapters.project_id", "adapters.digest"]),
        Index(None, "project_id", "digest"),
    )

    project: Mapped[str] = mapped_column("project_id", primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(Digest)
    fence: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime] = mapped_column(default=now)


class RecordRow(Base):
    """A signed record about a subject."""

    __tablename__ = "records"
    __table_args__ = (Index(None, "project_id", "subject"),)

    project: Mapped[str] = mapped_column("project_id", primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str]
    body: Mapped[dict[str, Any]]
    digest: Mapped[str] = mapped_column(Digest)
    signature: Mapped[str]
    signer: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)


class EventRow(Base):
    """A line of the append-only event log. Ids are never used twice, not even after a deletion."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("job", "kind", "step"),
        Index(None, "project_id", "stream", "id"),
        Index(None, "project_id", "task", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    project: Mapped[str] = mapped_column("project_id")
    stream: Mapped[str]
    task: Mapped[str | None]
    job: Mapped[str]
    kind: Mapped[str]
    step: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class AuditRow(Base):
    """A line of the audit log; `hash` covers the line and `previous`, the hash of the line before."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=False)
    project: Mapped[str] = mapped_column("project_id")
    at: Mapped[datetime]
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    body: Mapped[dict[str, Any]]
    previous: Mapped[str] = mapped_column(Digest)
    hash: Mapped[str] = mapped_column(Digest)


class KeyRow(Base):
    """An API key, of which only the SHA-256 is kept."""

    __tablename__ = "api_keys"
    __table_args__ = (UniqueConstraint("sha256"), Index(None, "project_id"))

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(Digest)
    scopes: Mapped[list[str]]
    requests_per_minute: Mapped[int | None]
    tokens_per_minute: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class RetiredRow(Base):
    """A secret that a key had before it was rotated, good until `until`. Kept, so that none is ever good again."""

    __tablename__ = "retired_secrets"
    __table_args__ = (Index(None, "project_id"),)

    sha256: Mapped[str] = mapped_column(Digest, primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    key: Mapped[str] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    until: Mapped[datetime]


class ProjectRow(Base):
    """A project, with quotas of its own where the settings' are not to hold."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column("project_id", primary_key=True)
    storage_bytes: Mapped[int | None] = mapped_column(BigInteger)
    training_seconds: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=now)


class LookRow(Base):
    """A look at locked test rows, written down before it happens."""

    __tablename__ = "looks"
    __table_args__ = (UniqueConstraint("project_id", "locked", "task", "candidate"),)

    project: Mapped[str] = mapped_column("project_id", primary_key=True)
    locked: Mapped[str] = mapped_column(Digest, primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    task: Mapped[str]
    candidate: Mapped[str]
    at: Mapped[datetime] = mapped_column(default=now)


class FeedbackRow(Base):
    """What the owner of an API key thought of a completion, with the route that led to it; the latest word stands."""

    __tablename__ = "feedback"
    __table_args__ = (Index(None, "project_id", "region", "chosen"), Index(None, "rollout"), Index(None, "at"))

    project: Mapped[str] = mapped_column("project_id", primary_key=True)
    completion: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    rating: Mapped[int | None]
    edit: Mapped[str | None]
    label: Mapped[str | None]
    comment: Mapped[str | None]
    reward: Mapped[int | None]
    requested: Mapped[str]
    chosen: Mapped[str]
    region: Mapped[str | None]
    propensity: Mapped[float | None]
    rollout: Mapped[str | None]
    side: Mapped[str | None]
    subject: Mapped[str | None]
    at: Mapped[datetime] = mapped_column(default=now)


class RecipeRow(Base):
    """A Mixture of Agents: `source` as it was sent, `sealed` with digests for names, and the digest of that."""

    __tablename__ = "recipes"

    project: Mapped[str] = mapped_column("project_id", primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(Digest)
    source: Mapped[str]
    sealed: Mapped[dict[str, Any]]
    state: Mapped[str]
    reason: Mapped[str] = mapped_column(default="")
    record: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)


class CronRow(Base):
    """A run that is started again and again; `next_at` is when next, None when never again."""

    __tablename__ = "crons"
    __table_args__ = (Index(None, "project_id", "created_at"), Index(None, "next_at"))

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    thread: Mapped[str | None] = mapped_column(ForeignKey("threads.id", ondelete="CASCADE"))
    schedule: Mapped[str]
    timezone: Mapped[str | None]
    input: Mapped[dict[str, Any]]
    meta: Mapped[dict[str, Any]] = mapped_column("metadata", Json)
    on_run_completed: Mapped[str]
    enabled: Mapped[bool]
    end_time: Mapped[datetime | None]
    next_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)


class ResponseRow(Base):
    """An answer of `/v1/responses` with what it was asked, so that the next request can go on from it."""

    __tablename__ = "responses"
    __table_args__ = (Index(None, "project_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column("project_id")
    previous: Mapped[str | None]
    items: Mapped[list[dict[str, Any]]]
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)
