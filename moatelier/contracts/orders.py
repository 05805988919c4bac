"""A training that a program asks for: everything is said at once, and the request is its own approval."""

from typing import Literal

from pydantic import Field

from moatelier.contracts.base import Contract
from moatelier.contracts.plan import Fixed

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
