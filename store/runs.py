"""Runs: one input to, or one resumption of, a thread. The row is written before anything is enqueued."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from moatelier.contracts import now
from moatelier.errors import Conflict, NotFound
from moatelier.ids import new_id
from store.db import reading, session
from store.tables import EventRow, RunRow, Stored, ThreadRow
from store.threads import OPEN_RUN, change, owned, refuse_if_running

RunStatus = Literal["pending", "running", "success", "error", "interrupted", "cancelled"]
_MUTABLE = frozenset({"status", "input", "command", "error", "last_event"})


class Run(Stored):
    """One input to, or one resumption of, a thread.

    `last_event` starts as the newest event of the thread when the run was written, so its own stream begins after it.
    """

    id: str
    project: str
    thread: str
    status: RunStatus
    input: dict[str, Any] | None
    command: dict[str, Any] | None
    error: dict[str, Any] | None
    metadata: dict[str, Any] | None = Field(validation_alias="meta")
    last_event: int
    created_at: datetime
    updated_at: datetime

    @property
    def ended(self) -> bool:
        """The run has ended: well, badly, at an interrupt or cancelled."""
        return self.status not in OPEN_RUN


def create_run(
    project: str,
    *,
    id: str | None = None,
    thread: str,
    input: Mapping[str, Any] | None = None,
    command: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Run:
    """Write a pending run and set its thread busy, in one transaction. Idempotent by id.

    Raises:
        NotFound: There is no such thread in this project.
        Conflict: Another run of the thread has not ended, or the id is taken on another thread.
    """
    with session() as opened:
        return enter_run(opened, project, id or new_id("run"), thread, input, command, metadata)


def enter_run(
    opened: Session,
    project: str,
    id: str,
    thread: str,
    input: Mapping[str, Any] | None,
    command: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Run:
    """Write a run within a transaction, as `create_run` says."""
    above = owned(opened, project, thread)
    row = opened.get(RunRow, id)
    if row is not None:
        if row.thread != thread:
            raise Conflict("This run id is taken.", where=id, remedy="Send another id, or none.")
        return Run.model_validate(row)
    refuse_if_running(opened, thread)
    row = RunRow(id=id, project=project, thread=thread, status="pending", last_event=_last_event(opened, thread))
    row.input, row.command, row.meta = _plain(input), _plain(command), _plain(metadata)
    change(above, {"status": "busy", "interrupts": []})  # what was asked is being answered
    opened.add(row)
    opened.flush()
    return Run.model_validate(row)


def _plain(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if value is None else dict(value)


def _last_event(opened: Session, thread: str) -> int:
    return opened.scalar(select(func.max(EventRow.id)).where(EventRow.stream == thread)) or 0


def get_run(project: str, thread: str, id: str) -> Run:
    """A run of this thread. Raises NotFound."""
    run = find_run(id)
    if (run.project, run.thread) != (project, thread):
        raise _no_run(id)
    return run


def find_run(id: str) -> Run:
    """A run of any thread, for workers. Raises NotFound."""
    with reading() as opened:
        if row := opened.get(RunRow, id):
            return Run.model_validate(row)
    raise _no_run(id)


def _no_run(id: str) -> NotFound:
    return NotFound("There is no such run of this thread.", where=id, remedy="List the thread's runs to see them.")


def shown_run(project: str, thread: str, id: str) -> Run:
    """A run of this thread that nobody has deleted. Raises NotFound."""
    run = get_run(project, thread, id)
    with reading() as opened:
        if opened.get_one(RunRow, id).hidden:
            raise _no_run(id)
    return run


def list_runs(project: str, thread: str, limit: int = 20, offset: int = 0, *, hidden: bool = True) -> list[Run]:
    """The runs of a thread, newest first; without `hidden` none that were deleted."""
    query = select(RunRow).where(RunRow.project == project, RunRow.thread == thread)
    if not hidden:
        query = query.where(RunRow.hidden.is_(False))
    query = query.order_by(RunRow.created_at.desc(), RunRow.id.desc()).limit(limit).offset(offset)
    with reading() as opened:
        return [Run.model_validate(row) for row in opened.scalars(query)]


def open_runs(project: str, thread: str | None = None) -> list[Run]:
    """The runs that have not ended, oldest first, of a thread or of all conversations."""
    query = select(RunRow).join(ThreadRow).where(RunRow.project == project, RunRow.status.in_(OPEN_RUN))
    query = query.where(ThreadRow.graph == "conversation")
    if thread is not None:
        query = query.where(RunRow.thread == thread)
    with reading() as opened:
        return [Run.model_validate(row) for row in opened.scalars(query.order_by(RunRow.created_at, RunRow.id))]


def hide_run(project: str, thread: str, id: str) -> None:
    """Delete a run that has ended, with what was said in it and the state it led to; its events stay in the log.

    Raises:
        NotFound: There is no such run of this thread.
        Conflict: It has not ended.
    """
    with session() as opened:
        row = opened.get(RunRow, id, with_for_update=True)
        if row is None or (row.project, row.thread) != (project, thread) or row.hidden:
            raise _no_run(id)
        if row.status in OPEN_RUN:
            raise Conflict("The run has not ended.", where=id, remedy="Cancel it, or wait for it, and try again.")
        row.hidden, row.updated_at = True, now()
        row.input = row.command = row.error = row.meta = row.state = None


def update_run(id: str, **fields: Any) -> Run:
    """Change fields of a run. One that has ended keeps its end: another status changes nothing.

    Raises:
        NotFound: There is no such run.
    """
    with session() as opened:
        row = opened.get(RunRow, id, with_for_update=True)
        if row is None:
            raise _no_run(id)
        if row.status in OPEN_RUN or fields.get("status", row.status) == row.status:
            _change(row, fields)
        return Run.model_validate(row)


def _change(row: RunRow, fields: Mapping[str, Any]) -> None:
    assert fields.keys() <= _MUTABLE, f"not fields that change: {fields.keys() - _MUTABLE}"
    for name, value in fields.items():
        setattr(row, name, value)
    row.updated_at = now()


def end_run(id: str, *, thread: Mapping[str, Any], **fields: Any) -> Run:
    """End a run and say how its thread stands then, in one transaction.

    So nobody sees a thread that waits for an answer while its run still seems to go on, and a worker that does it
    again after a crash cannot set a thread idle that meanwhile has another run: an ended run changes nothing.

    Args:
        id: The run.
        thread: Fields of its thread, as for `update_thread`.
        **fields: Fields of the run; `status` must be an end.

    Raises:
        NotFound: There is no such run.
    """
    assert fields.get("status") not in OPEN_RUN | {None}, "an end is needed"
    with session() as opened:
        row = opened.get(RunRow, id)
        if row is None:
            raise _no_run(id)
        above = owned(opened, row.project, row.thread)  # the thread is locked first, as in `create_run`
        opened.refresh(row, with_for_update=True)
        if row.status in OPEN_RUN:
            _change(row, fields)
            change(above, thread)
            if "values" in thread:
                row.state = {name: thread.get(name) for name in ("values", "interrupts")}
        return Run.model_validate(row)


def unstarted_runs(older_than_s: float) -> list[Run]:
    """Pending runs of all projects, oldest first, written at least so many seconds ago: for the sweeper."""
    written_before = now() - timedelta(seconds=older_than_s)
    query = select(RunRow).where(RunRow.status == "pending", RunRow.created_at <= written_before)
    with reading() as opened:
        return [Run.model_validate(row) for row in opened.scalars(query.order_by(RunRow.created_at, RunRow.id))]
