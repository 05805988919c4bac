"""What is decided about a rollout, by what is known."""

from typing import Any

import pytest

from agents.rollout import decide
from moatelier.contracts import Compared, RolloutEvidence, RolloutPlan


def compared(measure: Any, lower: float, upper: float) -> Compared:
    gain = (lower + upper) / 2
    return Compared(measure=measure, challenger=100, champion=100, gain=gain, lower=lower, upper=upper)


def evidence(*found: Compared, state: Any = "canary", **fields: Any) -> RolloutEvidence:
    plan = RolloutPlan(**fields.pop("plan", {}))
    return RolloutEvidence(plan=plan, state=state, compared=found, **fields)


LIKED, ANSWERED = compared("liked", -0.02, 0.2), compared("answered", -0.01, 0.03)


@pytest.mark.parametrize(
    ("known", "move"),
    [
        (evidence(), "wait"),
        (evidence(LIKED, ANSWERED), "promote"),
        (evidence(LIKED), "wait"),  # whether it answers at all is not known
        (evidence(LIKED, compared("answered", -0.3, 0.1)), "wait"),
        (evidence(compared("liked", -0.3, 0.1), ANSWERED), "wait"),
        (evidence(compared("liked", -0.3, 0.1), ANSWERED, plan={"watch": "answered"}), "promote"),
        (evidence(compared("liked", -0.3, 0.1), ANSWERED, plan={"margin": 0.4}), "promote"),
        (evidence(compared("liked", -0.3, -0.01), ANSWERED, plan={"watch": "answered"}), "roll_back"),
        (evidence(LIKED, compared("answered", -0.5, -0.1)), "roll_back"),
        (evidence(LIKED, ANSWERED, champion=False), "stop"),
        (evidence(days=14), "roll_back"),
        (evidence(LIKED, ANSWERED, state="shadow", shadowed=9, plan={"shadow": 10}), "wait"),
        (evidence(LIKED, ANSWERED, state="shadow", shadowed=10, plan={"shadow": 10}), "canary"),
        (evidence(compared("answered", -0.5, -0.1), state="shadow", plan={"shadow": 10}), "roll_back"),
    ],
)
def test_the_move_follows_from_the_bounds(known: RolloutEvidence, move: str) -> None:
    verdict = decide(known)
    assert verdict.move == move and verdict.reason


def test_the_reason_tells_the_bounds() -> None:
    told = decide(evidence(compared("liked", -0.31, -0.1), ANSWERED)).reason
    assert "-31.0" in told and "-10.0" in told and "100 of the challenger" in told
