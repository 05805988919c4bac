"""Routes, feedback and the event log."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from moatelier.contracts.base import Contract, now
from moatelier.contracts.rollouts import Side


class RouteDecision(Contract):
    """Which model answered a request and why."""

    requested: str
    chosen: str
    """Digest of a bundle or a recipe, or a catalogue id for a base that was named; `base` when `auto` abstained."""
    reason: Literal["exact", "alias", "base", "auto", "abstain", "recipe"]
    """`auto` was routed, `abstain` went to the base because the router thought no adapter fit."""
    completion: str = ""
    region: str | None = None
    """For `auto` and `abstain`: what the router alone, without feedback, would have chosen; a digest or `base`."""
    probabilities: dict[str, float] = Field(default_factory=dict)
    """Candidate -> calibrated probability that the request belongs to it; `base` is the mass of no adapter."""
    propensity: float | None = Field(default=None, gt=0, le=1)
    """The probability with which just this candidate was chosen, for honest estimates from logged feedback."""
    rollout: str | None = Field(default=None, exclude_if=lambda rollout: rollout is None)
    """The rollout that drew who answers."""
    side: Side | None = Field(default=None, exclude_if=lambda side: side is None)
    subject: str | None = Field(default=None, exclude_if=lambda subject: subject is None)
    """Whoever the request's field `user` names, as a digest that means nothing in another project."""


class Feedback(Contract):
    """What a person thought of an answer, joined by completion id."""

    completion: str
    rating: Literal[-1, 1] | None = None
    edit: str | None = None
    label: str | None = None
    comment: str | None = None
    messages: tuple[dict[str, Any], ...] | None = Field(default=None, min_length=1, max_length=100)
    """What was asked, for a service that does not keep it: without any words nothing can be learnt."""
    answer: str | None = None
    """What was answered."""


class Event(Contract):
    """A line of the append-only log, unique by (job, kind, step)."""

    project: str
    stream: str
    """The thread whose readers see it."""
    task: str | None = None
    job: str
    """What caused it: a job key, a run, or `<task>/<kind>/<name>` for a node's own."""
    kind: str
    """`profile`, `decision`, `status`, `progress`, `metrics`, `message`, `result`, `error`, ..."""
    step: int = 0
    body: dict[str, Any]
    id: int | None = None
    at: datetime = Field(default_factory=now)
