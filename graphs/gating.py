"""What the gate is asked, and the person's word on a promotion where the plan wants one."""

from typing import Any

from agents import trainer
from evals import conditions
from evals.verdict import percent_down
from graphs import approval, evidence
from graphs.nodes import decided, run_job
from graphs.state import LifecycleState
from moatelier.contracts import EvalReport, GateDecision, GateSpec, TaskPlan
from moatelier.contracts.suites import Conditions, Promotion, SuiteResult, SuiteSpec
from moatelier.settings import settings
from store import adapters, artifacts, records


def spec(state: LifecycleState, plan: TaskPlan) -> GateSpec:
    """What the gate decides: the trial that is best on select, beside base and champion."""
    trials = evidence.trials(state)
    candidate = trials[trainer.best(trials, plan.goal.value.metric)].result.bundle
    champion = adapters.alias_of(state["project"], plan.name)
    return GateSpec(
        project=state["project"],
        task=state["task"],
        dataset=state["dataset"],
        base=plan.base.value,
        candidate=candidate,
        champion=champion[0] if champion and champion[0] != candidate else None,
        goal=plan.goal.value,
        seed=plan.seed,
        conditions=wanted(plan),
    )


def wanted(plan: TaskPlan) -> Conditions | None:
    """The conditions beside goal and gain: the plan's, or by what is tuned (docs/adr/0019).

    What answers in its own words must keep what the base can do and what it refuses. What gives one of its labels, a
    transcript or a vector has neither to lose, and is measured only where a person asks for it.
    """
    if plan.conditions is not None:
        return plan.conditions
    if plan.modality.value == "text" and plan.kind.value in ("chat", "preference", "thumbs", "prompts"):
        return Conditions(guard=settings().guard)
    return None


def remembered(state: LifecycleState, plan: TaskPlan, bundle: str) -> tuple[EvalReport, EvalReport]:
    """What base and trial do on the retention suite, as reports; the job for the base runs once a task."""
    found = []
    for subject in (None, bundle):
        asked = SuiteSpec(suite="retention", base=plan.base.value, bundle=subject)
        _, result = run_job(state, "suite", asked.model_dump(mode="json"))
        found.append(conditions.report(SuiteResult.model_validate(result)))
    return found[0], found[1]


def asks(state: LifecycleState, plan: TaskPlan, decision: GateDecision) -> bool:
    """Whether a person's word is waited for before the alias moves."""
    wants = plan.conditions is not None and plan.conditions.approval
    return wants and decision.promoted and not state.get("order")


def question(state: LifecycleState, plan: TaskPlan, decision: GateDecision) -> dict[str, Any]:
    """The interrupt: what was found, and the one question."""
    bound = percent_down(decision.candidate_report.metrics[decision.goal.metric].claim_low)
    text = (
        f"{decision.reason} Shall {decision.candidate[:8]} become {plan.name}? ({decision.goal.metric} at least "
        f"{bound}; decision {decision.digest[:8]}.)"
    )
    asked = {"field": "promotion", "text": text, "choices": ["yes", "no"]}
    return {"type": "questions", "task": state["task"], "questions": [asked], "decision": decision.digest}


def heard(state: LifecycleState, decision: GateDecision, said: Any) -> LifecycleState:
    """Sign what the person said; anything but a plain yes keeps the champion where it is."""
    words = approval.answer_text(said).strip()
    approved = words.strip(".!").lower() in approval.YES
    word = Promotion(task=decision.task, decision=decision.digest, approved=approved, words=words[:500])
    records.sign(state["project"], "promotion", decision.candidate, decision.task, word)
    decided(state, "person", word.model_dump(mode="json"), words)
    if approved:
        return {}
    kept = {"promoted": False, "reason": f"{decision.reason} It was not approved: {words or 'nothing was said'}."}
    return {"decision": artifacts.put_json(decision.model_copy(update=kept))}
