"""A challenger takes the place of an alias's champion, or does not: what is tried, what is seen, what is decided."""

from typing import Literal

from pydantic import Field

from moatelier.contracts.base import Contract

RolloutState = Literal["shadow", "canary", "promoted", "rolled_back", "stopped"]
"""`stopped`: a person ended it; the champion stays, as with `rolled_back`."""
Side = Literal["champion", "challenger"]
Measure = Literal["liked", "answered"]
"""`liked`: what people said of answers. `answered`: without an error, in time and, where a form was asked, in it."""


class RolloutPlan(Contract):
    """How a challenger is tried."""

    share: float = Field(default=0.1, gt=0, le=0.9)
    """Of those who ask, so many are answered by the challenger; who is, stays so."""
    shadow: int = Field(default=0, ge=0, le=1_000_000)
    """Requests that the challenger answers unseen, beside the champion, before anybody gets its answers."""
    watch: Measure = "liked"
    """What a promotion rests on; `answered` is watched in any case."""
    margin: float = Field(default=0.1, gt=0, lt=1)
    """It is promoted once it is shown to be worse by less than this; 0.1 is ten points."""
    least: int = Field(default=30, ge=1)
    """Words, or answers, on each side before anything is concluded."""
    slow_s: float = Field(default=30.0, gt=0)
    """An answer that takes longer counts as none."""
    days: float = Field(default=14.0, gt=0, le=365)
    """Without a conclusion by then the champion stays."""


class Compared(Contract):
    """One measure so far; `lower` and `upper` hold at any time, see evals/sequential.py."""

    measure: Measure
    challenger: int
    champion: int
    gain: float
    """Of the challenger over the champion, mean of the rounds."""
    lower: float
    upper: float


class RolloutEvidence(Contract):
    """What the decision rests on."""

    plan: RolloutPlan
    state: RolloutState
    compared: tuple[Compared, ...]
    shadowed: int = 0
    """Requests that the challenger has answered unseen."""
    days: float = 0.0
    """Since its beginning."""
    champion: bool = True
    """The alias still points at the champion it began with."""


class RolloutVerdict(Contract):
    """What to do now, and why."""

    move: Literal["wait", "canary", "promote", "roll_back", "stop"]
    reason: str
