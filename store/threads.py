"""Threads, as readers see them; the graph's own state is in the checkpoints."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, cast, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from moatelier.contracts import now
from moatelier.errors import Conflict, InvalidRequest, NotFound
from moatelier.ids import new_id
from store.db import engine, insert_once, reading, session
from store.tables import RunRow, Stored, ThreadRow

GraphName = Literal["conversation", "lifecycle", "entry", "mixture", "derivation", "grading"]
ThreadStatus = Literal["idle", "busy", "interrupted", "error"]
OPEN_RUN = frozenset({"pending", "running"})
_THREAD_MUTABLE = frozenset({"status", "task", "metadata", "values", "interrupts"})


class Thread(Stored):
    """A thread of a graph. `interrupts` are what it waits for: [{"id", "value"}]."""

    id: str
    project: str
    graph: GraphName
    status: ThreadStatus
    task: str | None
    metadata: dict[str, Any]
    values: dict[str, Any]
    interrupts: list[dict[str, Any]]
    created_at: datetime
    updated_at: datetime


def _thread(row: ThreadRow) -> Thread:
    plain = {name: getattr(row, name) for name in Thread.model_fields if name != "metadata"}
    return Thread(metadata=row.meta, **plain)


def create_thread(
    project: str,
    *,
    id: str | None = None,
    graph: GraphName,
    task: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Thread:
    """Write a new, idle thread. Idempotent by id: a repeat returns the thread as it is now.

    Raises:
        Conflict: The id is taken in another project.
    """
    id = id or new_id("thread")
    row: dict[str, Any] = {"id": id, "project": project, "graph": graph, "status": "idle", "task": task}
    row |= {"meta": dict(metadata or {}), "values": {}, "interrupts": []}
    with session() as opened:
        insert_once(opened, ThreadRow, [row], conflict=["id"])
        thread = _thread(opened.get_one(ThreadRow, id))
    if thread.project != project:
        raise Conflict("This thread id is taken.", where=id, remedy="Send another id, or none.")
    return thread


def get_thread(project: str, id: str) -> Thread:
    """A thread of this project. Raises NotFound."""
    thread = find_thread(id)
    if thread.project != project:
        raise _no_thread(id)
    return thread


def find_thread(id: str) -> Thread:
    """A thread of any project, for workers. Raises NotFound."""
    with reading() as opened:
        if row := opened.get(ThreadRow, id):
            return _thread(row)
    raise _no_thread(id)


def _no_thread(id: str) -> NotFound:
    return NotFound("There is no such thread in this project.", where=id, remedy="Create it first: POST /threads.")


def owned(opened: Session, project: str, id: str) -> ThreadRow:
    """The row of a thread of this project, locked until the transaction ends. Raises NotFound."""
    row = opened.get(ThreadRow, id, with_for_update=True)
    if row is None or row.project != project:
        raise _no_thread(id)
    return row


def update_thread(id: str, **fields: Any) -> Thread:
    """Change fields of a thread: status, task, values and interrupts are replaced, metadata is merged key by key.

    Raises:
        NotFound: There is no such thread.
    """
    with session() as opened:
        row = opened.get(ThreadRow, id, with_for_update=True)
        if row is None:
            raise _no_thread(id)
        change(row, fields)
        return _thread(row)


def change(row: ThreadRow, fields: Mapping[str, Any]) -> None:
    """Set fields of a thread's row, within a transaction, as `update_thread` says."""
    assert fields.keys() <= _THREAD_MUTABLE, f"not fields that change: {fields.keys() - _THREAD_MUTABLE}"
    for name, value in fields.items():
        if name == "metadata":
            row.meta = {**row.meta, **value}
        else:
            setattr(row, name, value)
    row.updated_at = now()


def search_threads(
    project: str,
    status: ThreadStatus | None = None,
    metadata: Mapping[str, Any] | None = None,
    limit: int = 20,
    offset: int = 0,
) -> list[Thread]:
    """Threads, newest first, that have this status and every one of these metadata entries.

    Raises:
        InvalidRequest: A metadata value to look for is a list or an object.
    """
    query = select(ThreadRow).where(ThreadRow.project == project)
    if status is not None:
        query = query.where(ThreadRow.status == status)
    for key, value in (metadata or {}).items():
        query = query.where(_has(key, value))
    query = query.order_by(ThreadRow.created_at.desc(), ThreadRow.id.desc()).limit(limit).offset(offset)
    with reading() as opened:
        return [_thread(row) for row in opened.scalars(query)]


def _has(key: str, value: Any) -> ColumnElement[bool]:
    if not isinstance(value, str | bool | int | float):
        raise InvalidRequest(
            "Threads can be searched by metadata that are text, numbers or true and false.",
            where=f"metadata.{key}",
            remedy="Leave this entry out and look at the threads that come back.",
        )
    if engine().dialect.name == "postgresql":  # comparing as a type would fail at rows with a value of another one
        return cast(ThreadRow.meta, JSONB).contains({key: value})
    field = ThreadRow.meta[key]
    typed: ColumnElement[Any]
    if isinstance(value, bool):  # before int: True is one
        typed = field.as_boolean()
    elif isinstance(value, int):
        typed = field.as_integer()
    else:
        typed = field.as_string() if isinstance(value, str) else field.as_float()
    return typed == value


def delete_thread(project: str, id: str) -> None:
    """Delete a thread with its runs; its events stay in the log.

    Raises:
        NotFound: There is no such thread in this project.
        Conflict: A run of it has not ended.
    """
    with session() as opened:
        row = owned(opened, project, id)
        refuse_if_running(opened, id)
        opened.delete(row)


def refuse_if_running(opened: Session, thread: str) -> None:
    """Raise Conflict if a run of the thread has not ended."""
    query = select(RunRow.id).where(RunRow.thread == thread, RunRow.status.in_(OPEN_RUN))
    if run := opened.scalar(query.limit(1)):
        raise Conflict(
            "A run of this thread has not ended yet.", where=run, remedy="Wait for it, or cancel it, and try again."
        )
