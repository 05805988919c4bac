"""What every node of a task shares: its errors become the task's end, its words reach the reader, its jobs run once."""

from functools import wraps
from typing import Any, Protocol, TypeVar, cast

from graphs import jobs
from graphs.state import TaskState
from moatelier.contracts import Contract, Event
from moatelier.errors import Cancelled, MoatelierError
from store import artifacts, events, tasks

C = TypeVar("C", bound=Contract)
S = TypeVar("S", bound=TaskState)


class Node(Protocol[S]):
    """A node of a task's graph, as langgraph calls it."""

    __name__: str

    def __call__(self, state: S) -> S:
        """The changes to the state."""


def guarded(node: Node[S]) -> Node[S]:
    """A node whose MoatelierError ends the task with it; it waits while the task is paused, and not once cancelled."""

    @wraps(node)
    def run(state: S) -> S:
        try:
            if jobs.held(state["task"]):
                raise Cancelled("The task was cancelled.", where=state["task"])
            return node(state)
        except MoatelierError as error:
            ended = "cancelled" if isinstance(error, Cancelled) else "failed"
            return cast(S, {"error": error.to_dict(), "outcome": ended})

    return run


def load(state: TaskState, field: str, kind: type[C]) -> C:
    """The record whose digest stands in a field of the state."""
    return kind.model_validate(artifacts.get_json(state[field]))  # type: ignore[literal-required]  # any digest field


def _step(state: TaskState) -> int:
    """A number that a node that runs again repeats, and the same node later in the task does not."""
    return state.get("round", 0) * 100 + len(state.get("trials", [])) + len(state.get("legs", []))


def say(state: TaskState, kind: str, /, **body: Any) -> None:
    """Append an event for the readers of the conversation; a node that runs again repeats nothing."""
    about = body.get("phase") or body.get("agent") or body.get("status") or ""
    job = f"{state.get('task') or state['run']}/{kind}/{about}"
    events.append(
        [
            Event(
                project=state["project"],
                stream=state["stream"],
                task=state.get("task"),
                job=job,
                kind=kind,
                step=_step(state),
                body=body,
            )
        ]
    )


def decided(state: TaskState, agent: str, decision: dict[str, Any], reason: str) -> None:
    """Log an agent's decision with its reason."""
    say(state, "decision", agent=agent, decision=decision, reason=reason)


def set_status(state: TaskState, status: str) -> None:
    """Move the task to a stage."""
    tasks.update_task(state["task"], status=status)
    say(state, "status", status=status)


def run_job(state: TaskState, kind: str, spec: dict[str, Any], attempt: int = 0) -> tuple[str, dict[str, Any]]:
    """Run a job for this thread and wait for it: (key, result)."""
    task = state.get("task")
    return jobs.run_job(
        kind,
        spec,
        project=state["project"],
        stream=state["stream"],
        task=task,
        thread=tasks.find_task(task).thread if task else state["stream"],
        attempt=attempt,
    )
