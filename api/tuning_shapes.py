"""Tasks as fine-tuning jobs, their events and checkpoints, as the openai package reads them (its types/fine_tuning).

A task that a person talks about has said nothing in the dialect's fields; they are told from its plan.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from moatelier.contracts import Event, TaskPlan
from moatelier.errors import MoatelierError
from moatelier.settings import settings
from store import tasks
from store.imported import IMPORTED

STATUSES: Mapping[str, str] = {
    "planning": "validating_files",
    "awaiting_input": "queued",
    "awaiting_approval": "queued",
    "curating": "running",
    "training": "running",
    "evaluating": "running",
    "gating": "running",
    "registering": "running",
    "rejected": "cancelled",
    "cancelled": "cancelled",
    "failed": "failed",
}
METHODS = {"dpo": "dpo", "orpo": "dpo", "kto": "dpo", "grpo": "reinforcement", "rloo": "reinforcement"}
"""Our method -> the dialect's; all others are supervised."""
AUTO = {"batch_size": "auto", "learning_rate_multiplier": "auto", "n_epochs": "auto"}
SHOWN = frozenset({"status", "decision", "progress", "metrics", "evaluated", "error", "result"})
"""Kinds of events that a job tells of."""
EMPTY = {"hyperparameters": {}, "model": "", "result_files": [], "seed": 0, "training_file": "", "created_at": 0}
"""What every job tells, for those of other services that were told in part."""


def job_json(task: tasks.Task, order: Mapping[str, Any] | None) -> dict[str, Any]:
    """A `FineTuningJob`."""
    if order and IMPORTED in order:
        return {**EMPTY, "organization_id": task.project, **order[IMPORTED], "object": "fine_tuning.job"}
    result, plan = task.result or {}, task.plan
    told = order or {}
    method = told.get("method") or {"type": _method(plan)}
    return {
        "id": task.id,
        "object": "fine_tuning.job",
        "created_at": _seconds(task.created_at),
        "error": _error(task),
        "fine_tuned_model": result.get("model") if task.ended else None,
        "finished_at": _seconds(task.ended_at),
        "hyperparameters": _hyperparameters(told, method),
        "model": told.get("model") or (plan.base.value if plan else settings().base),
        "organization_id": task.project,
        "result_files": result.get("result_files", []),
        "seed": plan.seed if plan else told.get("seed") or 0,
        "status": status(task),
        "trained_tokens": result.get("trained_tokens"),
        "training_file": task.train_file,
        "validation_file": task.test_file,
        "estimated_finish": None,
        "integrations": [],
        "metadata": told.get("metadata"),
        "method": method,
    }


def status(task: tasks.Task) -> str:
    """How far a job is; one that has left a model has succeeded, whatever was claimed of it."""
    if not task.ended and task.cancel_requested:
        return "cancelled"  # nobody can take that back, and clients look no further
    if not task.ended and task.pause_requested:
        return "paused"
    if task.status in ("reached", "not_reached"):
        return "succeeded" if (task.result or {}).get("model") else "failed"
    return STATUSES[task.status]


def _method(plan: TaskPlan | None) -> str:
    return METHODS.get(plan.method.value, "supervised") if plan else "supervised"


def _hyperparameters(told: Mapping[str, Any], method: Mapping[str, Any]) -> dict[str, Any]:
    configured = method.get(method["type"]) or {}
    given = configured.get("hyperparameters") or told.get("hyperparameters") or {}
    return {name: given.get(name) or default for name, default in AUTO.items()}


def _error(task: tasks.Task) -> dict[str, Any] | None:
    if not task.error or task.status != "failed":
        return None
    error = MoatelierError.from_dict(task.error)
    param = "training_file" if error.code == "data_error" else None
    return {"code": error.code, "message": str(error), "param": param}


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


# ---------------------------------------------------------------- events


def event_json(event: Event) -> dict[str, Any]:
    """A `FineTuningJobEvent`."""
    message, metrics = _told(event.kind, event.step, event.body)
    return {
        "id": f"ftevent-{event.id}",
        "object": "fine_tuning.job.event",
        "created_at": _seconds(event.at),
        "level": "error" if event.kind == "error" else "info",
        "message": message,
        "type": "metrics" if metrics else "message",
        "data": metrics or {},
    }


def _told(kind: str, step: int, body: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """An event in words, and its numbers if it has any."""
    if kind == "progress" and body.get("phase") == "train" and "loss" in body:
        metrics = {"step": step, "train_loss": body["loss"], "total_steps": body.get("steps")}
        metrics |= {name: body[name] for name in ("lr", "reward", "epoch") if name in body}
        return f"Step {step}/{body.get('steps')}: training loss={_number(body['loss'])}", metrics
    if kind == "metrics" and "dev_loss" in body:
        metrics = {"step": step, "valid_loss": body["dev_loss"]}
        return f"Step {step}: validation loss={_number(body['dev_loss'])}", metrics
    if kind == "evaluated":
        return f"A trial of {body['steps']} steps ended: {body['metric']} on select rows is {body['score']}", {}
    if kind == "error":
        return str(MoatelierError.from_dict(dict(body))), {}
    if kind == "result":
        return f"The job has ended: {body.get('status')}. {body.get('reason') or ''}".strip(), {}
    if kind == "decision":
        return f"{body.get('agent')}: {body.get('reason')}", {}
    return f"The job is {body.get('status') or body.get('phase') or 'going on'}.", {}


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "not a number"


# ---------------------------------------------------------------- checkpoints


def checkpoint_json(task: tasks.Task, event: Event, model: str) -> dict[str, Any]:
    """A `FineTuningJobCheckpoint`, of the event of a finished trial whose adapter can be asked."""
    body = event.body
    metrics = {
        "step": body["steps"],
        "train_loss": body["train_loss"],
        "valid_loss": body["dev_loss"],
        "full_valid_loss": body["dev_loss"],
    }
    return {
        "id": f"ftckpt-{event.id}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": _seconds(event.at),
        "fine_tuned_model_checkpoint": model,
        "fine_tuning_job_id": task.id,
        "metrics": metrics | ({body["metric"]: body["score"]} if body["score"] is not None else {}),
        "step_number": body["steps"],
    }
