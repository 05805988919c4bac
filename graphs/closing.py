"""How a task ends: the candidate is registered, aliases move, the report is written, the person is told."""

import logging
import shutil
from pathlib import Path
from typing import Any

from agents import trainer
from agents.router import Registration
from evals import report
from evals.verdict import percent_down
from graphs import ordering, searching
from graphs.evidence import card, trials
from graphs.nodes import load, say
from graphs.state import LifecycleState
from moatelier.contracts import EvalReport, GateDecision, RolloutPlan, TaskPlan, TrainResult
from moatelier.errors import Conflict
from moatelier.faults import fault_point
from moatelier.ids import digest_json
from moatelier.settings import settings
from modalities import bundle
from store import adapters, records, rollouts, tasks

log = logging.getLogger("moatelier.worker")


def report_folder(task: str) -> Path:
    """Where a task's report lies."""
    return settings().home / "reports" / task


def sign(state: LifecycleState, subject: str, key: str, report_: EvalReport) -> None:
    """Keep a trial's report as a signed record beside the bundle it speaks of."""
    records.sign(state["project"], "eval_report", subject, key, report_)


def trial_told(result: TrainResult, select: EvalReport, plan: TaskPlan) -> dict[str, Any]:
    """What readers hear of a finished trial."""
    metric = plan.goal.value.metric
    told = result.model_dump(mode="json", include={"bundle", "steps", "epochs", "train_loss", "dev_loss", "tokens"})
    return told | {"metric": metric, "score": select.metrics[metric].point if metric in select.metrics else None}


def register(state: LifecycleState, decision: GateDecision, registration: Registration) -> None:
    """Register the candidate and move the aliases the router decided on; a repeat changes nothing."""
    manifest = bundle.read_manifest(adapters.bundle_path(decision.candidate))
    adapters.register(state["project"], manifest, state["task"])
    for alias in registration.aliases:
        adapters.set_alias(state["project"], alias, decision.candidate, fence=registration.fence, actor=state["task"])


def tried(state: LifecycleState, decision: GateDecision, registration: Registration) -> str | None:
    """Begin the rollout of a retrain's candidate, instead of moving the alias; its id, None where it is not to be.

    A repeat finds it begun. Where the alias has another rollout under way, the candidate is registered without it: "".
    """
    wanted = (state.get("order") or {}).get("rollout")
    if not wanted or not registration.aliases or decision.champion in (None, decision.candidate):
        return None
    manifest = bundle.read_manifest(adapters.bundle_path(decision.candidate))
    adapters.register(state["project"], manifest, state["task"])
    id = f"rollout-{digest_json([state['task'], 'rollout'])[:12]}"
    plan, alias = RolloutPlan.model_validate(wanted), registration.aliases[0]
    fault_point("rollout.before_begin")
    try:
        begun = rollouts.begin(state["project"], alias, decision.candidate, plan, actor=state["task"], id=id)
    except Conflict as error:
        say(state, "rollout", alias=alias, state="refused", reason=str(error))
        return ""
    fault_point("rollout.after_begin")
    say(state, "rollout", rollout=begun.id, alias=alias, state=begun.state, reason=begun.reason)
    return begun.id


def close(state: LifecycleState) -> None:
    """Write the report, the task's result or error, and the last events."""
    outcome, error = state.get("outcome", "failed"), state.get("error")
    result = _result(state) if state.get("decision") else _kept(state) if outcome == "cancelled" else None
    try:
        if state.get("dataset"):
            _write_report(state)
    except Exception as failure:  # a report that cannot be drawn must not undo what the gate decided
        log.exception("the report of %s could not be written", state["task"])
        what = f"The report could not be written: {failure}"
        say(state, "error", phase="report", code="report_failed", what=what, where=state["task"], remedy="See the log.")
    if error:
        say(state, "error", **error)
    say(state, "result", task=state["task"], status=outcome, **(result or {}))
    tasks.update_task(state["task"], status=outcome, result=result, error=error)


def _kept(state: LifecycleState) -> dict[str, Any] | None:
    """The best that a cancelled task has trained, registered without an alias; None before there is any."""
    tried = trials(state) if state.get("trials") else []
    if tried:
        kept = tried[trainer.best(tried, load(state, "plan", TaskPlan).goal.value.metric)].result
    elif state.get("pending"):
        kept = TrainResult.model_validate(state["pending"])
    else:
        return None
    manifest = bundle.read_manifest(adapters.bundle_path(kept.bundle))
    record = adapters.register(state["project"], manifest, state["task"])
    return {
        "model": record.model_id,
        "adapter": kept.bundle,
        "alias": None,
        "reached": False,
        "promoted": False,
        "steps": kept.steps,
        "dev_loss": kept.dev_loss,
        "trials": len(tried),
        "reason": "The task was cancelled: its best so far is kept, and has not been tested on locked rows.",
    }


def _result(state: LifecycleState) -> dict[str, Any]:
    decision = load(state, "decision", GateDecision)
    metric = decision.candidate_report.metrics[decision.goal.metric]
    registered = {record.digest: record for record in adapters.list_adapters(state["project"])}
    record = registered.get(decision.candidate)
    legs = searching.legs(state)
    results = [leg.result for leg in legs if leg.result] or [trial.result for trial in trials(state)]
    files = [ordering.keep_curves(state["project"], state["task"], results)] if state.get("order") else []
    return {
        "model": record.model_id if record else None,
        "adapter": decision.candidate,
        "alias": name if record and (name := load(state, "plan", TaskPlan).name) in record.aliases else None,
        "reached": decision.reached,
        "promoted": decision.promoted,
        **({"rollout": state["rollout"]} if state.get("rollout") else {}),
        "metric": decision.goal.metric,
        "target": decision.goal.target,
        "point": metric.point,
        "lower_bound": metric.claim_low,
        "rows": decision.candidate_report.rows,
        "trials": len({leg.trial for leg in legs}) or len(state.get("trials", [])),
        "reason": decision.reason,
        "stopped_because": state.get("stop", ""),
        "train_seconds": round(sum(leg.seconds for leg in legs) or sum(ran.seconds for ran in results), 1),
        "trained_tokens": sum(ran.tokens for ran in results),
        "result_files": files,
        "train_peak_bytes": max(ran.peak_bytes for ran in results),
    }


def _write_report(state: LifecycleState) -> None:
    folder = report_folder(state["task"])
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    task = tasks.find_task(state["task"])
    decision = load(state, "decision", GateDecision) if state.get("decision") else None
    shown = {
        "id": task.id,
        "request": task.request,
        "status": state.get("outcome", "failed"),
        "error": state.get("error"),
    }
    shown["stopped_because"] = state.get("stop", "")
    shown["bases"] = state.get("forecast", {}).get("bases", [])
    report.write_report(
        draft,
        task=shown,
        plan=load(state, "plan", TaskPlan),
        card=card(state),
        trials=[trial.model_dump(mode="json") for trial in trials(state)],
        decision=decision,
        legs=searching.legs(state),
    )
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def closing_words(task: tasks.Task) -> str:
    """How the task ended, in words."""
    result = task.result
    if task.status == "rejected":
        return "The plan was rejected; nothing was trained."
    if task.status == "cancelled":
        kept = (
            f" The best so far is kept as `{result['model']}`, untested and without an alias."
            if result and result["model"]
            else ""
        )
        return f"The task was cancelled.{kept}"
    if result is None or task.status == "failed":
        error = task.error or {}
        told = " ".join(str(error[key]) for key in ("what", "where", "remedy") if error.get(key))
        return f"The task failed: {told}"
    point, goal = (f"{result[key]:.1%}" for key in ("point", "target"))
    bound = percent_down(result["lower_bound"])
    shown = f"{result['metric']} {point}, lower bound {bound} on {result['rows']} locked rows"
    if result["promoted"]:
        if result.get("rollout"):
            return (
                f"Done. {shown}: the goal of {goal} is reached. `{result['model']}` is tried beside the champion now."
            )
        known = f", also known as `{result['alias']}`" if result["alias"] else "; another task took its name meanwhile"
        names = f"The model is `{result['model']}`{known}."
        return f"Done. {shown}: the goal of {goal} is reached. {names}"
    return f"Not promoted: {shown}, goal {goal}. {result['reason']} The best so far is kept as `{result['model']}`."
