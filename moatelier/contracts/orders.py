"""A training that a program asks for: everything is said at once, and the request is its own approval."""

from typing import Literal

from pydantic import Field

from moatelier.contracts.base import Contract
from moatelier.contracts.plan import Fixed
from moatelier.contracts.rollouts import RolloutPlan

OrderMethod = Literal["supervised", "dpo", "reinforcement"]


class Order(Contract):
    """What `/v1/fine_tuning/jobs` asks for, in terms that the planner understands."""

    model: str
    """A base that is served, by its catalogue id."""
    method: OrderMethod
    suffix: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**31)
    goal: str = ""
    """In plain words, such as `90% accuracy`; empty where only the comparison with the base is wanted."""
    budget: str = ""
    """In plain words, such as `20 minutes, 2 trials`."""
    fixed: Fixed = Fixed()
    reference: str | None = None
    """Of reinforcement: the column that answers are compared with."""
    again: str | None = Field(default=None, exclude_if=lambda again: again is None)
    """Of a retrain: the artifact of the plan of the task before, which holds once more, on another file."""
    rollout: RolloutPlan | None = Field(default=None, exclude_if=lambda rollout: rollout is None)
    """What the gate promotes is tried so beside the champion, before it takes its alias."""
