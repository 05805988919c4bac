"""How a conversation stood at the end of each of its runs: its history, without the graph's own checkpoints.

A state is named by the run that led to it.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import select, tuple_, update
from sqlalchemy.orm import undefer

from moatelier.errors import NotFound
from store.db import reading, session
from store.tables import RunRow, Stored
from store.threads import owned


class State(Stored):
    """One state. `parent` is the run that led to the state before it."""

    run: str
    parent: str | None
    values: dict[str, Any]
    interrupts: list[dict[str, Any]]
    metadata: dict[str, Any]
    at: datetime


def history(project: str, thread: str, limit: int = 10, before: str | None = None) -> list[State]:
    """The states of a thread, newest first; with `before`, those older than the state of that name.

    Raises:
        NotFound: No state has this name.
    """
    query = select(RunRow).where(RunRow.project == project, RunRow.thread == thread, RunRow.state.is_not(None))
    with reading() as opened:
        if before is not None:
            last = opened.get(RunRow, before)
            if last is None or (last.project, last.thread) != (project, thread):
                raise _no_state(before)
            query = query.where(tuple_(RunRow.created_at, RunRow.id) < (last.created_at, last.id))
        query = query.order_by(RunRow.created_at.desc(), RunRow.id.desc()).limit(limit + 1)
        rows = list(opened.scalars(query.options(undefer(RunRow.state))))
        parents = [*(row.id for row in rows[1:]), None]
        return [_state(row, parent) for row, parent in zip(rows, parents, strict=False)][:limit]


def get(project: str, thread: str, name: str) -> State:
    """The state that a run led to. Raises NotFound."""
    with reading() as opened:
        row = opened.get(RunRow, name, options=[undefer(RunRow.state)])
        if row is None or (row.project, row.thread) != (project, thread) or row.state is None:
            raise _no_state(name)
        found = _state(row, None)
    older = history(project, thread, 1, before=name)
    return found.model_copy(update={"parent": older[0].run if older else None})


def _state(row: RunRow, parent: str | None) -> State:
    state = row.state or {}
    return State(
        run=row.id,
        parent=parent,
        values=state.get("values") or {},
        interrupts=state.get("interrupts") or [],
        metadata=row.meta or {},
        at=row.updated_at,
    )


def forget_older(project: str, thread: str) -> None:
    """Drop all states of a thread but the newest. Raises NotFound."""
    newest = [state.run for state in history(project, thread, 1)]
    with session() as opened:
        owned(opened, project, thread)
        older = update(RunRow).where(RunRow.thread == thread, RunRow.id.not_in(newest))
        opened.execute(older.values(state=None))


def _no_state(name: str) -> NotFound:
    return NotFound("The thread has no such state.", where=name, remedy="POST /threads/{id}/history lists them.")
