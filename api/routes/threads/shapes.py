"""Threads, states and runs as langgraph-sdk reads them (its schema.py)."""

from typing import Any, Final

from moatelier.errors import InvalidRequest, MoatelierError
from store import tasks
from store.crons import Cron
from store.states import State

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


def state_json(thread: tasks.Thread, states: list[State]) -> dict[str, Any]:
    """A `ThreadState`: how the thread stands now. `states` are its newest ones, as `store.states.history` has them."""
    now = State(
        run="", parent=None, values=thread.values, interrupts=thread.interrupts, metadata={}, at=thread.updated_at
    )
    if states:
        now = now.model_copy(update={"run": states[0].run, "parent": states[0].parent})
    return past_json(thread, now) | {"metadata": thread.metadata}


def past_json(thread: tasks.Thread, state: State) -> dict[str, Any]:
    """A `ThreadState` as a run left it, named by that run; `parent_checkpoint` is the run before.

    The graph's own checkpoints are not open to clients.
    """
    waiting = {
        "id": thread.id,
        "name": "ask",
        "error": None,
        "interrupts": state.interrupts,
        "checkpoint": None,
        "state": None,
        "result": None,
    }
    return {
        "values": state.values,
        "next": ["ask"] if state.interrupts else [],
        "checkpoint": _checkpoint(thread.id, state.run or None),
        "metadata": state.metadata,
        "created_at": state.at.isoformat(),
        "parent_checkpoint": _checkpoint(thread.id, state.parent) if state.parent else None,
        "tasks": [waiting] if state.interrupts else [],
        "interrupts": state.interrupts,
    }


def _checkpoint(thread: str, run: str | None) -> dict[str, Any]:
    return {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": run, "checkpoint_map": None}


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
        "metadata": run.metadata or {},
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


def cron_json(cron: Cron) -> dict[str, Any]:
    """A `Cron`."""
    return {
        "cron_id": cron.id,
        "assistant_id": ASSISTANT,
        "thread_id": cron.thread,
        "on_run_completed": None if cron.thread else cron.on_run_completed,
        "end_time": cron.end_time.isoformat() if cron.end_time else None,
        "schedule": cron.schedule,
        "timezone": cron.timezone,
        "created_at": cron.created_at.isoformat(),
        "updated_at": cron.updated_at.isoformat(),
        "payload": {"assistant_id": ASSISTANT, "input": cron.input},
        "user_id": None,
        "next_run_date": cron.next_at.isoformat() if cron.next_at else None,
        "metadata": cron.metadata,
        "enabled": cron.enabled,
    }


def selected(row: dict[str, Any], select: Any) -> dict[str, Any]:
    """The fields of a row that a client wants: all, or those it lists; `values.<key>` is one of the values.

    Raises:
        InvalidRequest: `select` is no list of names.
    """
    if not select:
        return row
    if not isinstance(select, list) or not all(isinstance(name, str) for name in select):
        raise InvalidRequest("`select` is a list of fields.", where="select")
    kept = {name: value for name, value in row.items() if name in select}
    inner = [name.partition(".")[2] for name in select if name.startswith("values.")]
    if inner and "values" not in kept and "values" in row:
        kept["values"] = {name: row["values"][name] for name in inner if name in row["values"]}
    return kept
