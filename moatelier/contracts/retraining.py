"""What feedback teaches, and when a model is trained again on it."""

from typing import Any, Literal

from pydantic import Field

from moatelier.contracts.base import Contract
from moatelier.contracts.rollouts import RolloutPlan

LessonStatus = Literal["pending", "approved", "rejected", "contradictory", "wordless", "used"]
"""`wordless`: nothing of it can be trained on: its words were not kept, or no right answer was told."""
Cause = Literal["schedule", "rows", "drift", "person"]


class LessonBody(Contract):
    """One judged answer, redacted."""

    messages: tuple[dict[str, Any], ...] = ()
    """The conversation up to the answer."""
    answer: str = ""
    edit: str | None = None
    """What it should have said."""
    label: str | None = None
    """The right category."""
    good: bool | None = None
    """What the thumbs say."""

    @property
    def wanted(self) -> str | None:
        """The right answer, where it is known: a label, an edit, or what was answered and liked."""
        return self.label or self.edit or (self.answer if self.good else None) or None


class RetrainPlan(Contract):
    """When an alias's model is trained again, and how its successor is tried. None and False are never."""

    rows: int | None = Field(default=200, ge=1)
    """As soon as so many lessons are approved."""
    schedule: str | None = None
    """Five fields, as of a cron: then, if there are approved lessons."""
    timezone: str | None = None
    drift: bool = False
    """When a monitor has found drift, if there are approved lessons."""
    least: int = Field(default=20, ge=1)
    """Lessons without which neither schedule nor drift begins anything."""
    rest_hours: float = Field(default=24.0, ge=0)
    """Between two beginnings."""
    per_voice: int = Field(default=50, ge=1)
    """Of one voice (a key, or a user that it names) at most so many lessons are taken."""
    rollout: RolloutPlan = RolloutPlan()
