"""What a task will do, and where each value comes from."""

from typing import Generic, Literal, TypeVar

from pydantic import Field

from moatelier.contracts.base import Contract, Kind, MetricName
from moatelier.contracts.columns import AnyColumns
from moatelier.contracts.search import Search
from moatelier.contracts.suites import Conditions
from moatelier.contracts.training import RewardSpec

T = TypeVar("T")


class Sourced(Contract, Generic[T]):
    """A plan field with where its value comes from."""

    value: T
    source: Literal["user", "inferred", "default"]
    confidence: float = Field(ge=0, le=1)
    reason: str


class Goal(Contract):
    """Success: the one-sided lower bound of `metric` on locked rows reaches `target` (see docs/adr/0002)."""

    metric: MetricName
    target: float = Field(ge=0, le=1)


class Budget(Contract):
    """Hard limits of a task: training time over all trials, and the number of trials."""

    seconds: float = Field(gt=0)
    trials: int = Field(ge=1, le=20)


class TrialLimits(Contract):
    """What a person took off a trial so that it fits. None takes nothing off."""

    epochs: float | None = Field(default=None, gt=0)
    """Of the first trial, at most."""
    rows: int | None = Field(default=None, ge=1)
    """To train on, at most: some are taken by chance."""
    tokens: int | None = Field(default=None, ge=1)
    """Of a text that is trained on, at most: longer ones are left out of training, not out of the tests."""


class Fixed(Contract):
    """Settings of the trials that were fixed by whoever asked; what is None or empty, the trainer chooses."""

    epochs: float | None = Field(default=None, gt=0, le=100)
    batch_rows: int | None = Field(default=None, ge=1, le=1024)
    rate_multiplier: float = Field(default=1.0, gt=0, le=100)
    """Of the learning rate that the trainer would begin with."""
    beta: float | None = Field(default=None, ge=0, le=100)
    """See `TrainSpec.beta`."""
    rewards: tuple[RewardSpec, ...] = ()


NO_SEARCH = Sourced[Search](
    value=Search(),
    source="default",
    confidence=1.0,
    reason="Nothing was said; each trial changes what the diagnosis of the one before suggests.",
)


class TaskPlan(Contract):
    """What a task will do. The version that a person approves is `digest`."""

    name: str
    """A slug; becomes the adapter's suffix and the task's alias."""
    train_file: str
    """Id of the uploaded file (`file-...`)."""
    test_file: str | None = None
    modality: Sourced[str]
    kind: Sourced[Kind]
    columns: Sourced[AnyColumns]
    goal: Sourced[Goal]
    budget: Sourced[Budget]
    method: Sourced[str]
    base: Sourced[str]
    """A catalogue id."""
    private: Sourced[Literal["redact", "reject", "allow"]]
    """What happens to rows with private data."""
    too_long: Sourced[Literal["refuse", "drop", "truncate"]]
    """What happens to rows whose trained tokens do not fit into the context."""
    search: Sourced[Search] = Field(default=NO_SEARCH, exclude_if=lambda search: search.value.by == "none")
    """How trials find their settings; left out of records where nothing is searched."""
    seed: int = 0
    notes: tuple[str, ...] = ()
    """What a person should know before approving, such as a goal that the locked rows cannot show."""
    limits: TrialLimits | None = Field(default=None, exclude_if=lambda limits: limits is None)
    fixed: Fixed | None = Field(default=None, exclude_if=lambda fixed: fixed is None)
    conditions: Conditions | None = Field(default=None, exclude_if=lambda conditions: conditions is None)
    """What the gate demands beside goal and gain; None leaves it to what is tuned."""


class Question(Contract):
    """Something the planner will not guess."""

    field: str
    text: str
    choices: tuple[str, ...] = ()
