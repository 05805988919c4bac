"""What is measured of one request. Numbers only: what was said is in none of them."""

from datetime import datetime
from typing import Any

from pydantic import Field

from moatelier.contracts.base import Contract, now
from moatelier.contracts.rollouts import Side


class Observation(Contract):
    """One request: who answered, whether well, and numbers about prompt and answer."""

    project: str
    model: str
    """The name in the request."""
    chosen: str
    """Digest of what answered, or the catalogue id of a base."""
    rollout: str | None = None
    side: Side | None = None
    subject: str | None = None
    """A digest of who asked, or else of the conversation: its requests count together."""
    shadow: bool = False
    good: bool
    """Answered without an error, in time, and in the form that was asked for."""
    numbers: dict[str, Any] = Field(default_factory=dict)
    """Name -> number; `vector`, where it is there, is base64 of float16."""
    at: datetime = Field(default_factory=now)
