"""Models in use: rollouts, observations, monitors, alerts; what feedback teaches, and when that is trained on."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0006"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
DIGEST = sa.String(64)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ON_FEEDBACK = ("rollout", "side", "subject")


def _needed(kind: sa.types.TypeEngine[Any], *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=False) for name in names]


def _may_lack(kind: sa.types.TypeEngine[Any], *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=True) for name in names]


def upgrade() -> None:
    """Make the tables and columns."""
    for name in ON_FEEDBACK:
        op.add_column("feedback", sa.Column(name, sa.Text(), nullable=True))
    op.create_index("ix_feedback_rollout", "feedback", ["rollout"])
    op.create_index("ix_feedback_at", "feedback", ["at"])
    _rollouts()
    _observations()
    _alerts()
    _lessons()
    _retrains()


def _rollouts() -> None:
    op.create_table(
        "rollouts",
        *_needed(sa.Text(), "id", "project_id", "alias", "state", "reason", "actor", "told"),
        *_needed(DIGEST, "champion", "challenger"),
        *_needed(sa.BigInteger(), "fence"),
        *_may_lack(sa.Text(), "open"),
        *_needed(sa.JSON(), "plan"),
        *_may_lack(sa.JSON(), "evidence"),
        *_needed(TIME, "created_at", "updated_at"),
        *_may_lack(TIME, "ended_at"),
        sa.PrimaryKeyConstraint("id", name="pk_rollouts"),
        sa.UniqueConstraint("project_id", "open", name="uq_rollouts_project_id_open"),
    )
    op.create_index("ix_rollouts_project_id_created_at", "rollouts", ["project_id", "created_at"])


def _observations() -> None:
    op.create_table(
        "observations",
        sa.Column("id", SERIAL, nullable=False, autoincrement=True),
        *_needed(sa.Text(), "project_id", "model", "chosen"),
        *_may_lack(sa.Text(), "rollout", "side", "subject"),
        sa.Column("shadow", sa.Boolean(), nullable=False, server_default=sa.false()),
        *_needed(sa.Boolean(), "good"),
        *_needed(sa.JSON(), "numbers"),
        *_needed(TIME, "at"),
        sa.PrimaryKeyConstraint("id", name="pk_observations"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_observations_project_id_model_id", "observations", ["project_id", "model", "id"])
    op.create_index("ix_observations_rollout_id", "observations", ["rollout", "id"])
    op.create_index("ix_observations_at", "observations", ["at"])
    op.create_table(
        "monitors",
        *_needed(sa.Text(), "project_id", "model", "chosen"),
        *_may_lack(DIGEST, "reference"),
        *_needed(sa.BigInteger(), "last"),
        *_needed(sa.JSON(), "state"),
        *_needed(TIME, "updated_at"),
        sa.PrimaryKeyConstraint("project_id", "model", "chosen", name="pk_monitors"),
    )


def _alerts() -> None:
    op.create_table(
        "alerts",
        *_needed(sa.Text(), "id", "project_id", "monitor", "model", "what", "delivery"),
        *_needed(sa.JSON(), "body"),
        *_needed(sa.Integer(), "attempts"),
        *_needed(TIME, "created_at"),
        *_may_lack(TIME, "next_at", "seen_at"),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
    )
    op.create_index("ix_alerts_project_id_created_at", "alerts", ["project_id", "created_at"])
    op.create_index("ix_alerts_next_at", "alerts", ["next_at"])


def _lessons() -> None:
    op.create_table(
        "exchanges",
        *_needed(sa.Text(), "project_id", "completion", "answer"),
        *_needed(sa.JSON(), "messages"),
        *_needed(sa.Boolean(), "redacted"),
        *_needed(TIME, "at"),
        sa.PrimaryKeyConstraint("project_id", "completion", name="pk_exchanges"),
    )
    op.create_index("ix_exchanges_redacted", "exchanges", ["redacted"])
    op.create_index("ix_exchanges_at", "exchanges", ["at"])
    op.create_table(
        "lessons",
        *_needed(sa.Text(), "project_id", "completion", "alias", "voice", "status"),
        *_needed(sa.JSON(), "body"),
        *_may_lack(sa.Text(), "retrain"),
        *_needed(TIME, "at", "updated_at"),
        sa.PrimaryKeyConstraint("project_id", "completion", name="pk_lessons"),
    )
    op.create_index("ix_lessons_project_id_alias_status", "lessons", ["project_id", "alias", "status"])


def _retrains() -> None:
    op.create_table(
        "triggers",
        *_needed(sa.Text(), "project_id", "alias"),
        *_needed(sa.JSON(), "plan"),
        *_needed(sa.Boolean(), "enabled"),
        *_may_lack(TIME, "next_at"),
        *_needed(TIME, "created_at", "updated_at"),
        sa.PrimaryKeyConstraint("project_id", "alias", name="pk_triggers"),
    )
    op.create_index("ix_triggers_next_at", "triggers", ["next_at"])
    op.create_table(
        "retrains",
        *_needed(sa.Text(), "id", "project_id", "alias", "cause", "status"),
        *_needed(sa.Integer(), "number", "lessons"),
        *_needed(sa.JSON(), "plan"),
        *_needed(DIGEST, "champion"),
        *_may_lack(sa.Text(), "task"),
        *_may_lack(sa.JSON(), "error"),
        *_needed(TIME, "created_at", "updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_retrains"),
        sa.UniqueConstraint("project_id", "alias", "number", name="uq_retrains_project_id_alias_number"),
    )
    op.create_index("ix_retrains_status", "retrains", ["status"])


def downgrade() -> None:
    """Drop them."""
    for name in ("retrains", "triggers", "lessons", "exchanges", "alerts", "monitors", "observations", "rollouts"):
        op.drop_table(name)
    op.drop_index("ix_feedback_at", "feedback")
    op.drop_index("ix_feedback_rollout", "feedback")
    for name in reversed(ON_FEEDBACK):
        op.drop_column("feedback", name)
