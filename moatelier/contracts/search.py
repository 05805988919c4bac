"""A search over training settings: what it may try, and one piece of its work."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from moatelier.contracts.base import Contract
from moatelier.contracts.training import TrainResult, TrainSpec

SearchBy = Literal["none", "grid", "random", "tpe"]
Value = int | float | str
LIMITS: dict[str, tuple[float, float]] = {
    "rank": (1, 256),
    "learning_rate": (1e-7, 1.0),
    "epochs": (0.1, 100),
    "batch_rows": (1, 1024),
    "data_part": (0.01, 1.0),
}
"""The numbers of a training that can be searched -> the least and the largest value of each."""
CHOICES: dict[str, tuple[str, ...]] = {"layers": ("top_third", "all"), "method": ()}
"""The words of a training that can be searched -> the values there are; what methods there are, the plan knows."""
WHOLE = ("rank", "batch_rows")
MOST_VALUES = 16


class Search(Contract):
    """How the settings of trials are found, and among which.

    `none`: the trainer changes one thing at a time by its diagnosis. Else so many trials as the budget allows are drawn
    from the space by a grid, at random or by TPE (Bergstra et al., 2011), and the better ones go on by halving.
    """

    by: SearchBy = "none"
    space: dict[str, tuple[Value, ...]] = Field(default_factory=dict)
    """Field of TrainSpec -> the values it may take; numbers ascend."""

    @field_validator("space")
    @classmethod
    def _in_order(cls, space: dict[str, tuple[Value, ...]]) -> dict[str, tuple[Value, ...]]:
        """One order, whoever wrote it down, since draws count on it."""
        ordered = {}
        for name in sorted(space):
            ordered[name] = tuple(sorted(space[name], key=lambda value: (isinstance(value, str), value)))
        return ordered

    @model_validator(mode="after")
    def _can_be_tried(self) -> "Search":
        if (self.by == "none") != (not self.space):
            raise ValueError("a search needs a space, and there is none without a search")
        for name, values in self.space.items():
            if name not in LIMITS and name not in CHOICES:
                raise ValueError(f"{name} cannot be searched; {', '.join([*LIMITS, *CHOICES])} can")
            if not 1 <= len(values) <= MOST_VALUES or len(set(values)) < len(values):
                raise ValueError(f"{name} needs 1 to {MOST_VALUES} different values")
            for value in values:
                _check(name, value)
        return self

    @property
    def combinations(self) -> int:
        """How many different settings there are."""
        count = 1
        for values in self.space.values():
            count *= len(values)
        return count if self.space else 0


def _check(name: str, value: Value) -> None:
    if name in CHOICES:
        if not isinstance(value, str) or (CHOICES[name] and value not in CHOICES[name]):
            raise ValueError(f"{name} {value!r} is none of {', '.join(CHOICES[name]) or 'the methods'}")
        return
    low, high = LIMITS[name]
    if isinstance(value, str) or not low <= value <= high or (name in WHOLE and value != int(value)):
        raise ValueError(f"{name} {value!r} is outside of {low:g} to {high:g}")


class Leg(Contract):
    """One job of a search: a trial is trained from where it was paused to the next rung.

    `result` and `error` are empty before it ran; a failed one has an error alone.
    """

    trial: int
    """Counted from 0, as it was begun."""
    rung: int
    """Counted from 0; at each, a third of the trials goes on."""
    values: dict[str, Value]
    """What was drawn for the trial."""
    spec: TrainSpec
    seconds: float
    """What it takes of the budget: the forecast before it ran and where it failed, else as measured, loading too."""
    key: str = ""
    """Of its job, in whose folder the checkpoint lies."""
    result: TrainResult | None = None
    error: str = ""
