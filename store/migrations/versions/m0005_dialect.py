"""The stored resources of the OpenAI dialect: orders of tasks, uploads in parts, evals with runs; files that expire."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def _texts(*names: str, nullable: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=nullable) for name in names]


def _times(*names: str) -> list[sa.Column[object]]:
    return [sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in names]


def _json(*names: str, nullable: bool = False) -> list[sa.Column[object]]:
    return [sa.Column(name, sa.JSON(), nullable=nullable) for name in names]


def upgrade() -> None:
    """Make the tables and columns."""
    op.add_column("tasks", sa.Column("pause_requested", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("files", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    _orders_and_uploads()
    _evals()


def _orders_and_uploads() -> None:
    op.create_table(
        "orders",
        *_texts("task", "project_id"),
        *_json("request"),
        *_times("created_at"),
        sa.PrimaryKeyConstraint("task", name="pk_orders"),
    )
    op.create_table(
        "uploads",
        *_texts("id", "project_id", "name", "purpose", "mime_type", "status"),
        *_texts("file", nullable=True),
        *_times("created_at", "expires_at"),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("keep_s", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_status_expires_at", "uploads", ["status", "expires_at"])
    op.create_table(
        "upload_parts",
        *_texts("id", "project_id", "upload"),
        *_times("created_at"),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_upload_parts"),
        sa.ForeignKeyConstraint(["upload"], ["uploads.id"], name="fk_upload_parts_upload", ondelete="CASCADE"),
    )
    op.create_index("ix_upload_parts_upload", "upload_parts", ["upload"])


def _evals() -> None:
    op.create_table(
        "evals",
        *_texts("id", "project_id", "name"),
        *_json("config", "criteria", "metadata"),
        *_times("created_at", "updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_evals"),
    )
    op.create_index("ix_evals_project_id_created_at", "evals", ["project_id", "created_at"])
    op.create_table(
        "eval_runs",
        *_texts("id", "project_id", "eval", "name", "status"),
        *_json("source", "criteria", "metadata"),
        *_json("error", "told", nullable=True),
        *_times("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_eval_runs"),
        sa.ForeignKeyConstraint(["eval"], ["evals.id"], name="fk_eval_runs_eval", ondelete="CASCADE"),
    )
    op.create_index("ix_eval_runs_eval_created_at", "eval_runs", ["eval", "created_at"])
    op.create_table(
        "eval_items",
        *_texts("run", "project_id"),
        *_json("body"),
        *_times("created_at"),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint("run", "number", name="pk_eval_items"),
        sa.ForeignKeyConstraint(["run"], ["eval_runs.id"], name="fk_eval_items_run", ondelete="CASCADE"),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("eval_items", "eval_runs", "evals", "upload_parts", "uploads", "orders"):
        op.drop_table(table)
    with op.batch_alter_table("files") as files:
        files.drop_column("expires_at")
    with op.batch_alter_table("tasks") as tasks:
        tasks.drop_column("pause_requested")
