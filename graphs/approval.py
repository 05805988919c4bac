"""What a person is shown before anything runs, and how the answer is read."""

from typing import Any

from agents.kinds import NOUN
from graphs import evidence, forecasting
from graphs.state import LifecycleState
from moatelier.contracts import Budget, Goal, Search, TaskPlan, TrialLimits
from moatelier.contracts.suites import Conditions

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
        "refused": refused.to_dict() if (refused := forecasting.refusal(plan, state["forecast"])) else None,
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
                        "limits": TrialLimits.model_json_schema(),
                        "conditions": Conditions.model_json_schema(),
                    },
                },
            }
        ],
    }


def describe(plan: TaskPlan, state: LifecycleState) -> str:
    """The plan in one sentence."""
    profile = evidence.profile(state)
    goal, budget = plan.goal.value, plan.budget.value
    told = state["forecast"]
    price = f" and costs {told['cost']:.2f}" if told["cost"] is not None else ""
    rows = f"{profile.rows} {NOUN[profile.modality]}s of {profile.name}"
    return (
        f"Tune {plan.base.value} on {rows} until {goal.metric} is shown to be at least {goal.target:.1%}, in "
        f"at most {budget.trials} trials and {budget.seconds / 60:.0f} minutes of training; "
        f"one trial takes about {told['seconds'] / 60:.1f} minutes here{price}.{searched(plan)}"
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


def answer_text(answer: Any) -> str:
    """A person's answer to a question as text, however the client wrapped it."""
    if isinstance(answer, dict):
        return "; ".join(str(value) for value in answer.values())
    return str(answer)


def read_verdict(said: Any, plan: TaskPlan, forecast: dict[str, Any]) -> tuple[str, Any]:
    """What the person decided: (approve | edit | again | stale | reject, detail).

    Plain text is understood too: yes, no, the number of a cheaper trial that was shown, or anything else as a further
    message to the planner.
    """
    if isinstance(said, str):
        word = said.strip().strip(".!").lower()
        if edit := forecasting.chosen(word, forecast):
            return "edit", edit
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
