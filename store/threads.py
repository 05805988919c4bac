"""Threads, as readers see them; the graph's own state is in the checkpoints."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, cast, delete, exists, func, or_, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from moatelier.contracts import now
from moatelier.errors import Conflict, InvalidRequest, NotFound
from moatelier.ids import new_id
from store.db import engine, insert_once, reading, session
from store.tables import RunRow, Stored, TaskRow, ThreadRow

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
    stateless: bool
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
    values: Mapping[str, Any] | None = None,
    stateless: bool = False,
) -> Thread:
    """Write a new, idle thread. Idempotent by id: a repeat returns the thread as it is now.

    Args:
        project: Whose it is.
        id: Default: a new one.
        graph: What runs on it.
        task: The task it belongs to.
        metadata: Its owner's.
        values: What it knows already, of a thread that it is a copy of.
        stateless: It is forgotten some time after its one run.

    Raises:
        Conflict: The id is taken in another project.
    """
    id = id or new_id("thread")
    row: dict[str, Any] = {"id": id, "project": project, "graph": graph, "status": "idle", "task": task}
    row |= {"meta": dict(metadata or {}), "values": dict(values or {}), "interrupts": [], "stateless": stateless}
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


SORTED = {
    "thread_id": ThreadRow.id,
    "status": ThreadRow.status,
    "created_at": ThreadRow.created_at,
    "updated_at": ThreadRow.updated_at,
    "state_updated_at": ThreadRow.updated_at,
}


def search_threads(
    project: str,
    status: ThreadStatus | None = None,
    metadata: Mapping[str, Any] | None = None,
    limit: int = 20,
    offset: int = 0,
    *,
    values: Mapping[str, Any] | None = None,
    ids: Sequence[str] | None = None,
    sort_by: str = "created_at",
    descending: bool = True,
) -> list[Thread]:
    """Threads that have this status and every one of these metadata entries and values; newest first by default.

    Raises:
        InvalidRequest: A metadata entry or value to look for is a list or an object.
    """
    query = _matching(select(ThreadRow), project, status, metadata, values, ids)
    order = [column.desc() if descending else column.asc() for column in (SORTED[sort_by], ThreadRow.id)]
    with reading() as opened:
        return [_thread(row) for row in opened.scalars(query.order_by(*order).limit(limit).offset(offset))]


def count_threads(
    project: str,
    status: ThreadStatus | None = None,
    metadata: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
) -> int:
    """How many threads `search_threads` would find. Raises InvalidRequest like it."""
    query = _matching(select(func.count()).select_from(ThreadRow), project, status, metadata, values, None)
    with reading() as opened:
        return opened.scalar(query) or 0


def _matching(
    query: Select[Any],
    project: str,
    status: ThreadStatus | None,
    metadata: Mapping[str, Any] | None,
    values: Mapping[str, Any] | None,
    ids: Sequence[str] | None,
) -> Select[Any]:
    query = query.where(ThreadRow.project == project)
    if status is not None:
        query = query.where(ThreadRow.status == status)
    if ids is not None:
        query = query.where(ThreadRow.id.in_(ids))
    for key, value in (metadata or {}).items():
        query = query.where(has(ThreadRow.meta, "metadata", key, value))
    for key, value in (values or {}).items():
        query = query.where(has(ThreadRow.values, "values", key, value))
    return query


def has(column: Any, name: str, key: str, value: Any) -> ColumnElement[bool]:
    """Whether a JSON column of a row has this entry. Raises InvalidRequest for a list or an object."""
    if not isinstance(value, str | bool | int | float):
        raise InvalidRequest(
            f"Threads can be searched by {name} that are text, numbers or true and false.",
            where=f"{name}.{key}",
            remedy="Leave this entry out and look at the threads that come back.",
        )
    if engine().dialect.name == "postgresql":  # comparing as a type would fail at rows with a value of another one
        contained: ColumnElement[bool] = cast(column, JSONB).contains({key: value})
        return contained
    field = column[key]
    typed: ColumnElement[Any]
    if isinstance(value, bool):  # before int: True is one
        typed = field.as_boolean()
    elif isinstance(value, int):
        typed = field.as_integer()
    else:
        typed = field.as_string() if isinstance(value, str) else field.as_float()
    return typed == value


def forget_stateless(older_than_s: float) -> int:
    """Delete threads of stateless runs that ended so long ago, of all projects: for the sweeper. The number of them.

    One that waits for an answer, or whose task goes on, stays: nobody could answer or cancel it any more.
    """
    ended_before = now() - timedelta(seconds=older_than_s)
    going = select(TaskRow.id).where(TaskRow.ended_at.is_(None))
    query = delete(ThreadRow).where(
        ThreadRow.stateless.is_(True),
        ThreadRow.status.in_(("idle", "error")),
        ThreadRow.updated_at <= ended_before,
        or_(ThreadRow.task.is_(None), ThreadRow.task.not_in(going)),
        exists().where(RunRow.thread == ThreadRow.id),
        ~exists().where(RunRow.thread == ThreadRow.id, RunRow.status.in_(OPEN_RUN)),
    )
    with session() as opened:
        done = opened.execute(query, execution_options={"preserve_rowcount": True, "synchronize_session": False})
        return int(getattr(done, "rowcount", 0))


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
