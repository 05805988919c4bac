"""What people thought of answers, with the route that led to each."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    texts = [sa.Column(name, sa.Text(), nullable=False) for name in ("project_id", "completion", "key")]
    words = [sa.Column(name, sa.Text(), nullable=True) for name in ("edit", "label", "comment", "region")]
    numbers = [sa.Column(name, sa.Integer(), nullable=True) for name in ("rating", "reward")]
    op.create_table(
        "feedback",
        *texts,
        *words,
        *numbers,
        sa.Column("requested", sa.Text(), nullable=False),
        sa.Column("chosen", sa.Text(), nullable=False),
        sa.Column("propensity", sa.Double(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "completion", "key", name="pk_feedback"),
    )
    op.create_index("ix_feedback_project_id_region_chosen", "feedback", ["project_id", "region", "chosen"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("feedback")
