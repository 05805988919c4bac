"""What a person is shown before anything runs, and how the answer is read."""

from typing import Any

from agents.kinds import NOUN
from graphs import evidence
from graphs.state import LifecycleState
from moatelier.contracts import Budget, Goal, TaskPlan

YES = frozenset({"yes", "y", "ok", "okay", "approve", "approved", "go", "go ahead", "do it", "start"})
NO = frozenset({"no", "n", "reject", "stop", "cancel", "abort"})
ASSUMED_EPOCHS = 3.0


def payload(state: LifecycleState, plan: TaskPlan) -> dict[str, Any]:
    """The approval interrupt: the plan's exact version, its forecast, and what may be decided."""
    return {
        "type": "approval",
        "task": state["task"],
        "version": plan.digest,
        "plan": plan.model_dump(mode="json"),
        "forecast": state["forecast"],
        "action_requests": [
            {"name": "train", "args": plan.model_dump(mode="json"), "description": describe(plan, state)}
        ],
        "review_configs": [
            {
                "action_name": "train",
                "allowed_decisions": ["approve", "edit", "reject"],
                "args_schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "goal": Goal.model_json_schema(),
                        "budget": Budget.model_json_schema(),
                        "base": {"type": "string"},
                        "private": {"enum": ["redact", "reject", "allow"]},
                        "too_long": {"enum": ["refuse", "drop", "truncate"]},
                        "seed": {"type": "integer"},
                        "name": {"type": "string"},
                    },
                },
            }
        ],
    }


def describe(plan: TaskPlan, state: LifecycleState) -> str:
    """The plan in one sentence."""
    profile = evidence.profile(state)
    goal, budget = plan.goal.value, plan.budget.value
    minutes = state["forecast"]["seconds"] / 60
    rows = f"{profile.rows} {NOUN[profile.modality]}s of {profile.name}"
    return (
        f"Tune {plan.base.value} on {rows} until {goal.metric} is shown to be at least {goal.target:.1%}, in "
        f"at most {budget.trials} trials and {budget.seconds / 60:.0f} minutes of training; "
        f"one trial takes about {minutes:.1f} minutes here."
    )


def forecast(rows: int, tokens_per_row: float, speed: dict[str, Any], plan: TaskPlan) -> dict[str, Any]:
    """How long one trial takes, from this machine's measured speeds.

    Args:
        rows: Training rows after the split.
        tokens_per_row: Mean length of prompt and answer.
        speed: The probe's tokens per second.
        plan: For the budget.

    Returns:
        `seconds` of one trial with its parts, and whether the budget covers it.
    """
    frozen = rows * tokens_per_row / speed["frozen_tokens_per_s"]
    training = rows * tokens_per_row * ASSUMED_EPOCHS / speed["train_tokens_per_s"]
    return {
        "seconds": round(frozen + training, 1),
        "frozen_seconds": round(frozen, 1),
        "train_seconds": round(training, 1),
        "tokens_per_row": round(tokens_per_row, 1),
        "rows": rows,
        "fits_budget": frozen + training <= plan.budget.value.seconds,
        **speed,
    }


def answer_text(answer: Any) -> str:
    """A person's answer to a question as text, however the client wrapped it."""
    if isinstance(answer, dict):
        return "; ".join(str(value) for value in answer.values())
    return str(answer)


def read_verdict(said: Any, plan: TaskPlan) -> tuple[str, Any]:
    """What the person decided: (approve | edit | again | stale | reject, detail).

    Plain text is understood too: yes, no, or anything else as a further message to the planner.
    """
    if isinstance(said, str):
        word = said.strip().strip(".!").lower()
        return ("approve", None) if word in YES else ("reject", said) if word in NO else ("again", said)
    if said.get("version", plan.digest) != plan.digest:
        return "stale", None
    decision = (said.get("decisions") or [{}])[0]
    kind = decision.get("type")
    if kind == "edit":
        return "edit", decision.get("edited_action", {}).get("args", {})
    if kind in ("respond", "reject"):
        return ("again" if kind == "respond" else "reject"), decision.get("message", "")
    return ("approve", None) if kind == "approve" else ("stale", None)
