"""Tasks: what a person asked for and how far it is. Threads and runs can be had from here too.

A task ends once: whoever ends it first decides how, and a later writer with another end changes nothing.
"""

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import and_, or_, select

from moatelier.contracts import Contract, TaskPlan, now
from moatelier.errors import Conflict, NotFound
from store.db import insert_once, reading, session
from store.runs import (
    Run,
    create_run,
    end_run,
    find_run,
    get_run,
    hide_run,
    list_runs,
    open_runs,
    shown_run,
    unstarted_runs,
    update_run,
)
from store.tables import Stored, TaskRow, ThreadRow
from store.threads import (
    GraphName,
    Thread,
    count_threads,
    create_thread,
    delete_thread,
    find_thread,
    forget_stateless,
    get_thread,
    search_threads,
    update_thread,
)

__all__ = [
    "ENDED",
    "Run",
    "Task",
    "TaskStatus",
    "Thread",
    "count_threads",
    "create_run",
    "create_task",
    "create_thread",
    "delete_thread",
    "end_run",
    "find_run",
    "find_task",
    "find_thread",
    "forget_stateless",
    "get_run",
    "get_task",
    "get_thread",
    "hide_run",
    "list_runs",
    "list_tasks",
    "open_runs",
    "request_cancel",
    "request_pause",
    "search_threads",
    "shown_run",
    "unstarted_runs",
    "update_run",
    "update_task",
    "update_thread",
]

TaskStatus = Literal[
    "planning",
    "awaiting_input",
    "awaiting_approval",
    "curating",
    "training",
    "evaluating",
    "gating",
    "registering",
    "reached",
    "not_reached",
    "rejected",
    "cancelled",
    "failed",
    "imported",
]
ENDED = frozenset({"reached", "not_reached", "rejected", "cancelled", "failed", "imported"})
"""`imported`: it ended in another service, and only what that told of it is here."""
_MUTABLE = frozenset(
    {
        "status",
        "name",
        "train_file",
        "test_file",
        "plan",
        "result",
        "error",
        "cancel_requested",
        "thread",
        "conversation",
    }
)


class Task(Stored):
    """A task. `thread` is its lifecycle thread, `conversation` the thread its person talks on."""

    id: str
    project: str
    thread: str
    conversation: str
    request: str
    status: TaskStatus
    name: str
    train_file: str
    test_file: str | None
    plan: TaskPlan | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    cancel_requested: bool
    pause_requested: bool
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None

    @property
    def ended(self) -> bool:
        """Nothing more will happen."""
        return self.status in ENDED


def create_task(
    project: str, *, id: str, thread: str, conversation: str, request: str, train_file: str, test_file: str | None
) -> Task:
    """Write a new task down, in status `planning`. Idempotent by id: a repeat returns the task as it is now.

    Raises:
        Conflict: The id is taken in another project.
    """
    row = {
        "id": id,
        "project": project,
        "thread": thread,
        "conversation": conversation,
        "request": request,
        "status": "planning",
        "train_file": train_file,
        "test_file": test_file,
    }
    with session() as opened:
        insert_once(opened, TaskRow, [row], conflict=["id"])
        task = Task.model_validate(opened.get_one(TaskRow, id))
    if task.project != project:
        raise Conflict("This task id is taken.", where=id, remedy="Send another id, or none.")
    return task


def get_task(project: str, id: str) -> Task:
    """A task of this project. Raises NotFound."""
    task = find_task(id)
    if task.project != project:
        raise _no_task(id)
    return task


def find_task(id: str) -> Task:
    """A task of any project, for workers. Raises NotFound."""
    with reading() as opened:
        if row := opened.get(TaskRow, id):
            return Task.model_validate(row)
    raise _no_task(id)


def _no_task(id: str) -> NotFound:
    return NotFound("There is no such task in this project.", where=id, remedy="`moatelier task list` shows them.")


def list_tasks(
    project: str, limit: int = 50, after: str | None = None, *, graph: GraphName | None = None
) -> list[Task]:
    """Tasks, newest first; `after` is the id of the last one seen. Raises NotFound for an unknown `after`.

    Args:
        project: Whose.
        limit: At most so many.
        after: Those before this one in time.
        graph: Only those that this graph carries out.
    """
    query = select(TaskRow).where(TaskRow.project == project)
    if graph is not None:
        query = query.join(ThreadRow, ThreadRow.id == TaskRow.thread).where(ThreadRow.graph == graph)
    if after is not None:
        seen = get_task(project, after)
        same_time = and_(TaskRow.created_at == seen.created_at, TaskRow.id < seen.id)
        query = query.where(or_(TaskRow.created_at < seen.created_at, same_time))
    query = query.order_by(TaskRow.created_at.desc(), TaskRow.id.desc()).limit(limit)
    with reading() as opened:
        return [Task.model_validate(row) for row in opened.scalars(query)]


def update_task(id: str, **fields: Any) -> Task:
    """Change fields of a task; an end sets `ended_at`. An ended task keeps its end: another status changes nothing.

    Args:
        id: The task.
        **fields: Any of status, name, train_file, test_file, plan (a TaskPlan or its JSON), result, error,
            cancel_requested, thread, conversation.

    Raises:
        NotFound: There is no such task.
    """
    assert fields.keys() <= _MUTABLE, f"not fields that change: {fields.keys() - _MUTABLE}"
    with session() as opened:
        row = opened.get(TaskRow, id, with_for_update=True)
        if row is None:
            raise _no_task(id)
        if row.status not in ENDED or fields.get("status", row.status) == row.status:
            for name, value in fields.items():
                setattr(row, name, value.model_dump(mode="json") if isinstance(value, Contract) else value)
            row.updated_at = now()
            if row.status in ENDED and row.ended_at is None:
                row.ended_at = row.updated_at
        return Task.model_validate(row)


def request_cancel(project: str, id: str) -> Task:
    """Ask for a task to be stopped; its worker sees `cancel_requested`. Idempotent.

    Raises:
        NotFound: There is no such task in this project.
        Conflict: The task has ended.
    """
    with session() as opened:
        row = opened.get(TaskRow, id, with_for_update=True)
        if row is None or row.project != project:
            raise _no_task(id)
        if row.status in ENDED:
            raise Conflict(
                f"The task has already ended ({row.status}).", where=id, remedy="There is nothing to cancel."
            )
        row.cancel_requested, row.updated_at = True, now()
        return Task.model_validate(row)


def request_pause(project: str, id: str, wanted: bool) -> Task:
    """Ask for a task to be held, or to go on; its worker sees `pause_requested`. Idempotent.

    Raises:
        NotFound: There is no such task in this project.
        Conflict: The task has ended, or is being cancelled.
    """
    with session() as opened:
        row = opened.get(TaskRow, id, with_for_update=True)
        if row is None or row.project != project:
            raise _no_task(id)
        if row.status in ENDED or row.cancel_requested:
            stands = row.status if row.status in ENDED else "being cancelled"
            raise Conflict(
                f"The task cannot be held or go on: it is {stands}.", where=id, remedy="Only what runs can be paused."
            )
        row.pause_requested, row.updated_at = wanted, now()
        return Task.model_validate(row)
