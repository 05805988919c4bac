"""What keys may do and how much; secrets that were rotated away; projects with their quotas."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ALL = json.dumps(["infer", "train", "read", "admin"])
"""What every key could do before."""


def upgrade() -> None:
    """Add the columns and make the tables."""
    moment = sa.DateTime(timezone=True)
    with op.batch_alter_table("api_keys") as keys:
        keys.add_column(sa.Column("scopes", sa.JSON(), nullable=False, server_default=sa.text(f"'{ALL}'")))
        keys.add_column(sa.Column("requests_per_minute", sa.Integer(), nullable=True))
        keys.add_column(sa.Column("tokens_per_minute", sa.Integer(), nullable=True))
        keys.add_column(sa.Column("expires_at", moment, nullable=True))
    op.create_table(
        "retired_secrets",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("until", moment, nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_retired_secrets"),
        sa.ForeignKeyConstraint(["key"], ["api_keys.id"], name="fk_retired_secrets_key", ondelete="CASCADE"),
    )
    op.create_index("ix_retired_secrets_project_id", "retired_secrets", ["project_id"])
    op.create_table(
        "projects",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("storage_bytes", sa.BigInteger(), nullable=True),
        sa.Column("training_seconds", sa.BigInteger(), nullable=True),
        sa.Column("created_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("project_id", name="pk_projects"),
    )
    known = "SELECT project_id, MIN(created_at) FROM api_keys GROUP BY project_id"
    op.execute(f"INSERT INTO projects (project_id, created_at) {known}")


def downgrade() -> None:
    """Drop what was added."""
    op.drop_table("projects")
    op.drop_table("retired_secrets")
    with op.batch_alter_table("api_keys") as keys:
        for name in ("scopes", "requests_per_minute", "tokens_per_minute", "expires_at"):
            keys.drop_column(name)
