"""What programs asked of tasks, as they asked it. A task that a person talks about has no order."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select

from store.db import insert_once, reading, session
from store.dialect_tables import OrderRow


def put(project: str, task: str, request: Mapping[str, Any]) -> None:
    """Keep the order of a task. Idempotent: the first one stays."""
    with session() as opened:
        insert_once(opened, OrderRow, [{"project": project, "task": task, "request": dict(request)}], conflict=["task"])


def get(project: str, task: str) -> dict[str, Any] | None:
    """The order of a task, None where a person asked for it."""
    return of(project, [task]).get(task)


def of(project: str, tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Task -> order, of those that have one."""
    query = select(OrderRow).where(OrderRow.project == project, OrderRow.task.in_(tasks))
    with reading() as opened:
        return {row.task: row.request for row in opened.scalars(query)}
