"""Mixtures of Agents: what they are, and whether they may answer."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    texts = [sa.Column(name, sa.Text(), nullable=False) for name in ("project_id", "name", "source", "state", "reason")]
    times = [sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in ("created_at", "updated_at")]
    op.create_table(
        "recipes",
        *texts,
        *times,
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("sealed", sa.JSON(), nullable=False),
        sa.Column("record", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("project_id", "name", name="pk_recipes"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("recipes")
