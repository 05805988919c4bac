"""The first tables: what is uploaded, what is asked for, what was made of it, and the logs."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TABLES = (
    "files dataset_cards tasks threads runs adapters aliases records events audit api_keys looks".split()  # as made
)


def _text(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=null)


def _digest(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.String(64), nullable=False)


def _json(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON(none_as_null=True), nullable=null)


def _number(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _time(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=null)


def _key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=f"pk_{table}")


def _unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=f"uq_{table}_{'_'.join(columns)}")


def _index(table: str, *columns: str) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns))


def upgrade() -> None:
    """Make the tables."""
    _datasets()
    _tasks()
    _threads()
    _adapters()
    _logs()
    _access()


def _datasets() -> None:
    columns = [_text("id"), _text("project_id"), _text("name"), _text("purpose"), _number("bytes"), _digest("sha256")]
    op.create_table("files", *columns, _time("created_at"), _key("files", "id"))
    _index("files", "project_id", "created_at")
    _index("files", "sha256")
    columns = [_text("project_id"), _digest("digest"), _text("task"), _text("name")]
    op.create_table("dataset_cards", *columns, _time("created_at"), _key("dataset_cards", "project_id", "digest"))


def _tasks() -> None:
    columns = [_text(name) for name in ("id", "project_id", "thread", "conversation", "request", "status", "name")]
    columns += [_text("train_file"), _text("test_file", null=True)]
    op.create_table(
        "tasks",
        *columns,
        *(_json(name, null=True) for name in ("plan", "result", "error")),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        *(_time("created_at"), _time("updated_at"), _time("ended_at", null=True)),
        _key("tasks", "id"),
    )
    _index("tasks", "project_id", "created_at")


def _threads() -> None:
    op.create_table(
        "threads",
        *(_text("id"), _text("project_id"), _text("graph"), _text("status"), _text("task", null=True)),
        *(_json("metadata"), _json("values"), _json("interrupts")),
        *(_time("created_at"), _time("updated_at")),
        _key("threads", "id"),
    )
    _index("threads", "project_id", "created_at")
    op.create_table(
        "runs",
        *(_text("id"), _text("project_id"), _text("thread"), _text("status")),
        *(_json(name, null=True) for name in ("input", "command", "error")),
        *(_number("last_event"), _time("created_at"), _time("updated_at")),
        sa.ForeignKeyConstraint(["thread"], ["threads.id"], name="fk_runs_thread", ondelete="CASCADE"),
        _key("runs", "id"),
    )
    _index("runs", "thread", "created_at")
    _index("runs", "status", "created_at")


def _adapters() -> None:
    columns = [_text(name) for name in ("project_id", "model_id", "suffix", "base", "task")]
    op.create_table(
        "adapters",
        *columns,
        *(_digest("digest"), _json("manifest"), _time("created_at")),
        _key("adapters", "project_id", "digest"),
    )
    _index("adapters", "project_id", "model_id")
    owner = ["project_id", "digest"]
    op.create_table(
        "aliases",
        *(_text("project_id"), _text("alias"), _digest("digest"), _number("fence"), _time("updated_at")),
        sa.ForeignKeyConstraint(owner, [f"adapters.{name}" for name in owner], name="fk_aliases_project_id_digest"),
        _key("aliases", "project_id", "alias"),
    )
    _index("aliases", *owner)
    columns = [_text(name) for name in ("project_id", "kind", "key", "subject", "signature", "signer")]
    op.create_table(
        "records",
        *columns,
        *(_json("body"), _digest("digest"), _time("created_at")),
        _key("records", "project_id", "kind", "key"),
    )
    _index("records", "project_id", "subject")


def _logs() -> None:
    op.create_table(
        "events",
        sa.Column("id", _SERIAL, autoincrement=True, nullable=False),
        *(_text("project_id"), _text("stream"), _text("task", null=True), _text("job"), _text("kind")),
        *(_number("step"), _json("body"), _time("at")),
        _key("events", "id"),
        _unique("events", "job", "kind", "step"),
        sqlite_autoincrement=True,
    )
    _index("events", "project_id", "stream", "id")
    _index("events", "project_id", "task", "id")
    op.create_table(
        "audit",
        sa.Column("id", _SERIAL, autoincrement=False, nullable=False),
        *(_text("project_id"), _time("at"), _text("actor"), _text("action"), _text("subject")),
        *(_json("body"), _digest("previous"), _digest("hash")),
        _key("audit", "id"),
    )


def _access() -> None:
    op.create_table(
        "api_keys",
        *(_text("id"), _text("project_id"), _text("name"), _digest("sha256")),
        *(_time("created_at"), _time("revoked_at", null=True)),
        _key("api_keys", "id"),
        _unique("api_keys", "sha256"),
    )
    _index("api_keys", "project_id")
    op.create_table(
        "looks",
        *(_text("project_id"), _digest("locked")),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        *(_text("task"), _text("candidate"), _time("at")),
        _key("looks", "project_id", "locked", "number"),
        _unique("looks", "project_id", "locked", "task", "candidate"),
    )


def downgrade() -> None:
    """Drop them, those that refer to others first."""
    for table in reversed(_TABLES):
        op.drop_table(table)
