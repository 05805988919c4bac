"""What was asked and answered, by completion: kept only where the operator has said so, and shown only redacted."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update

from moatelier.contracts import now
from store.db import insert_once, reading, session
from store.live_tables import ExchangeRow
from store.tables import Stored


class Exchange(Stored):
    """One answer with what it answers."""

    project: str
    completion: str
    messages: list[dict[str, Any]]
    answer: str
    redacted: bool = False
    at: datetime


def append(found: Sequence[Exchange]) -> None:
    """Keep some; of a completion that is known already nothing changes."""
    if not found:
        return
    with session() as opened:
        rows = [each.model_dump() for each in found]
        insert_once(opened, ExchangeRow, rows, conflict=["project_id", "completion"])


def get(project: str, completion: str) -> Exchange | None:
    """A redacted exchange; None when there is none, or it has not been redacted yet."""
    with reading() as opened:
        row = opened.get(ExchangeRow, (project, completion))
        return None if row is None or not row.redacted else Exchange.model_validate(row)


def waits(project: str, completion: str) -> bool:
    """Whether a completion's words are there and have not been redacted yet."""
    with reading() as opened:
        row = opened.get(ExchangeRow, (project, completion))
        return row is not None and not row.redacted


def redact_new(redact: Callable[[str], str], limit: int = 200) -> int:
    """Take private data out of what came since; how many. For the sweeper, in whose process the recognisers may be."""
    with reading() as opened:
        query = select(ExchangeRow).where(~ExchangeRow.redacted).order_by(ExchangeRow.at).limit(limit)
        raw = [Exchange.model_validate(row) for row in opened.scalars(query)]
    for each in raw:
        turns = [{"role": turn["role"], "content": redact(turn["content"])} for turn in each.messages]
        mine = ExchangeRow.project == each.project, ExchangeRow.completion == each.completion
        changed = {"messages": turns, "answer": redact(each.answer), "redacted": True}
        with session() as opened:
            opened.execute(update(ExchangeRow).where(*mine).values(**changed))
    return len(raw)


def forget(days: float) -> None:
    """Delete what is older than so many days. For the sweeper."""
    with session() as opened:
        opened.execute(delete(ExchangeRow).where(ExchangeRow.at < now() - timedelta(days=days)))
