"""What a person is shown before anything runs, and how the answer is read."""

from typing import Any

from agents.kinds import NOUN
from agents.trainer import usual_epochs
from graphs import evidence
from graphs.state import LifecycleState
from moatelier.contracts import Budget, Goal, Search, TaskPlan

YES = frozenset({"yes", "y", "ok", "okay", "approve", "approved", "go", "go ahead", "do it", "start"})
NO = frozenset({"no", "n", "reject", "stop", "cancel", "abort"})


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
                        "search": Search.model_json_schema(),
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
        f"one trial takes about {minutes:.1f} minutes here.{searched(plan)}"
    )


def searched(plan: TaskPlan) -> str:
    """What a search will try, in a sentence; empty where there is none."""
    search, trials = plan.search.value, plan.budget.value.trials
    if search.by == "none":
        return ""
    space = "; ".join(
        f"{name.replace('_', ' ')} {', '.join(str(value) for value in values)}" for name, values in search.space.items()
    )
    return (
        f" Settings are searched: {min(trials, search.combinations)} trials drawn by {search.by} from "
        f"{search.combinations} ({space}); the best third of them goes on at each rung, as far as the time allows."
    )


def forecast(rows: int, row_size: float, speed: dict[str, Any], plan: TaskPlan) -> dict[str, Any]:
    """How long one trial takes, from this machine's measured speeds.

    Args:
        rows: Training rows after the split.
        row_size: Mean length of prompt and answer in tokens; 1 for pictures and recordings.
        speed: The probe's tokens, or pictures or recordings, per second.
        plan: For the method and the budget.

    Returns:
        `seconds` of one trial with its parts, and whether the budget covers it.
    """
    unit = _unit(speed)
    frozen = rows * row_size / speed[f"frozen_{unit}_per_s"] + speed.get("solve_seconds", 0.0)
    training = rows * row_size * usual_epochs(plan) / pace(speed)
    return {
        "seconds": round(frozen + training, 1),
        "frozen_seconds": round(frozen, 1),
        "train_seconds": round(training, 1),
        **({"tokens_per_row": round(row_size, 1)} if unit == "tokens" else {}),
        "rows": rows,
        "fits_budget": frozen + training <= plan.budget.value.seconds,
        **speed,
    }


def pace(speed: dict[str, Any]) -> float:
    """How fast is trained: tokens a second, or pictures or recordings."""
    return float(speed[f"train_{_unit(speed)}_per_s"])


def _unit(speed: dict[str, Any]) -> str:
    return "rows" if "train_rows_per_s" in speed else "tokens"


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
