"""What was done about what trials fell short by, and what that brought."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    texts = ("project_id", "task", "symptom", "text", "level", "action", "change", "status", "measure")
    numbers = [sa.Column(name, sa.Double(), nullable=True) for name in ("before", "after", "credit")]
    op.create_table(
        "ledger",
        *(sa.Column(name, sa.Text(), nullable=False) for name in texts),
        sa.Column("trial", sa.Integer(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("ids", sa.JSON(), nullable=False),
        sa.Column("spec", sa.String(64), nullable=False),
        *numbers,
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "task", "trial", name="pk_ledger"),
    )
    op.create_index("ix_ledger_project_id_symptom_action", "ledger", ["project_id", "symptom", "action"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("ledger")
