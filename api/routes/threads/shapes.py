"""Threads, states and runs as langgraph-sdk reads them (its schema.py)."""

from typing import Any, Final

from moatelier.errors import MoatelierError
from store import tasks

ASSISTANT: Final = "conversation"
"""The one graph that clients talk to; `moatelier` is another name for it."""
ASSISTANTS = (ASSISTANT, "moatelier")


def thread_json(thread: tasks.Thread) -> dict[str, Any]:
    """A `Thread`. `task` is ours: the task the conversation is about."""
    return {
        "thread_id": thread.id,
        "created_at": thread.created_at.isoformat(),
        "updated_at": thread.updated_at.isoformat(),
        "metadata": thread.metadata,
        "status": thread.status,
        "values": thread.values,
        "interrupts": {interrupt["id"]: [interrupt] for interrupt in thread.interrupts},
        "config": {},
        "task": thread.task,
    }


def state_json(thread: tasks.Thread) -> dict[str, Any]:
    """A `ThreadState`. The graph's own checkpoints are not open to clients; a state is named by when it was written."""
    node = [] if not thread.interrupts else ["ask"]
    checkpoint = {
        "thread_id": thread.id,
        "checkpoint_ns": "",
        "checkpoint_id": thread.updated_at.isoformat(),
        "checkpoint_map": None,
    }
    waiting = {
        "id": thread.id,
        "name": "ask",
        "error": None,
        "interrupts": thread.interrupts,
        "checkpoint": None,
        "state": None,
        "result": None,
    }
    return {
        "values": thread.values,
        "next": node,
        "checkpoint": checkpoint,
        "metadata": thread.metadata,
        "created_at": thread.updated_at.isoformat(),
        "parent_checkpoint": None,
        "tasks": [waiting] if node else [],
        "interrupts": thread.interrupts,
    }


def run_json(run: tasks.Run) -> dict[str, Any]:
    """A `Run`. A cancelled run is `interrupted` with a reason: the client knows no status of its own for it."""
    cancelled = run.status == "cancelled"
    return {
        "run_id": run.id,
        "thread_id": run.thread,
        "assistant_id": ASSISTANT,
        "created_at": run.created_at.isoformat(),
        "updated_at": run.updated_at.isoformat(),
        "status": "interrupted" if cancelled else run.status,
        "metadata": {},
        "kwargs": {"input": run.input, "command": run.command},
        "multitask_strategy": "reject",
        "cancel_reason": "cancelled by request" if cancelled else None,
    }


def values_json(thread: tasks.Thread) -> dict[str, Any]:
    """The thread's values; what waits for an answer stands under `__interrupt__`."""
    return {**thread.values, **({"__interrupt__": thread.interrupts} if thread.interrupts else {})}


def error_json(run: tasks.Run) -> dict[str, Any]:
    """Why a run failed, as `{"error": code, "message": text}`."""
    error = MoatelierError.from_dict(run.error or {"what": "The run failed."})
    return {"error": error.code, "message": str(error)}
