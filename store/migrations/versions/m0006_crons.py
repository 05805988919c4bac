"""The conversation, complete: crons, stateless threads, a state for each run; and the answers of `/v1/responses`."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables and columns."""
    op.add_column("threads", sa.Column("stateless", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("runs", sa.Column("metadata", sa.JSON(), nullable=True))
    op.add_column("runs", sa.Column("state", sa.JSON(), nullable=True))
    op.add_column("runs", sa.Column("hidden", sa.Boolean(), nullable=False, server_default=sa.false()))
    _crons()
    _responses()


def _crons() -> None:
    texts = [sa.Column(name, sa.Text(), nullable=False) for name in ("project_id", "schedule", "on_run_completed")]
    words = [sa.Column(name, sa.Text(), nullable=True) for name in ("thread", "timezone")]
    objects = [sa.Column(name, sa.JSON(), nullable=False) for name in ("input", "metadata")]
    times = [sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in ("created_at", "updated_at")]
    moments = [sa.Column(name, sa.DateTime(timezone=True), nullable=True) for name in ("end_time", "next_at")]
    op.create_table(
        "crons",
        sa.Column("id", sa.Text(), nullable=False),
        *texts,
        *words,
        *objects,
        sa.Column("enabled", sa.Boolean(), nullable=False),
        *times,
        *moments,
        sa.PrimaryKeyConstraint("id", name="pk_crons"),
        sa.ForeignKeyConstraint(["thread"], ["threads.id"], name="fk_crons_thread", ondelete="CASCADE"),
    )
    op.create_index("ix_crons_project_id_created_at", "crons", ["project_id", "created_at"])
    op.create_index("ix_crons_next_at", "crons", ["next_at"])


def _responses() -> None:
    op.create_table(
        "responses",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("previous", sa.Text(), nullable=True),
        sa.Column("items", sa.JSON(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_responses"),
    )
    op.create_index("ix_responses_project_id_created_at", "responses", ["project_id", "created_at"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("responses")
    op.drop_table("crons")
    for name in ("hidden", "state", "metadata"):
        op.drop_column("runs", name)
    op.drop_column("threads", "stateless")
