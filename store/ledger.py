"""The ledger of a project: symptom, evidence, action, measured effect; a line for each trial made for a reason.

A line is written before its trial is made and completed after it, so that a decision made again after a crash finds
what was decided.
"""

from typing import Any

from sqlalchemy import func, select, update

from moatelier.contracts import LedgerEntry, Tally
from store.db import insert_once, reading, session
from store.ledger_tables import LedgerRow


def find(project: str, task: str, trial: int) -> LedgerEntry | None:
    """The line of a trial, counted from 0; None where nothing was decided about it."""
    with reading() as opened:
        row = opened.get(LedgerRow, (project, task, trial))
        return None if row is None else _entry(row)


def write(project: str, entry: LedgerEntry) -> LedgerEntry:
    """Write down what is about to be done; the line that stands, which is the first one of its trial."""
    fields = entry.model_dump() | {"ids": list(entry.ids)}
    with session() as opened:
        insert_once(opened, LedgerRow, [{"project": project, **fields}], conflict=["project_id", "task", "trial"])
        return _entry(opened.get_one(LedgerRow, (project, entry.task, entry.trial)))


def complete(project: str, task: str, trial: int, **told: Any) -> None:
    """Note what came of a trial: `status`, and `measure`, `before`, `after`, `credit` where it was scored.

    A trial without a line, such as a task's first one, is left alone.
    """
    named = LedgerRow.project == project, LedgerRow.task == task, LedgerRow.trial == trial
    with session() as opened:
        opened.execute(update(LedgerRow).where(*named).values(**told))


def entries(project: str, task: str) -> list[LedgerEntry]:
    """A task's lines, by trial."""
    query = select(LedgerRow).where(LedgerRow.project == project, LedgerRow.task == task)
    with reading() as opened:
        return [_entry(row) for row in opened.scalars(query.order_by(LedgerRow.trial))]


def tallies(project: str) -> list[Tally]:
    """How each action has fared against each symptom, over all tasks of the project; open lines do not count."""
    named = (LedgerRow.symptom, LedgerRow.action)
    query = select(*named, func.count(), func.sum(LedgerRow.credit))
    query = query.where(LedgerRow.project == project, LedgerRow.credit.is_not(None))
    with reading() as opened:
        found = opened.execute(query.group_by(*named).order_by(*named)).all()
    return [Tally(symptom=one, action=other, tries=tries, credit=float(credit)) for one, other, tries, credit in found]


def _entry(row: LedgerRow) -> LedgerEntry:
    return LedgerEntry.model_validate({name: getattr(row, name) for name in LedgerEntry.model_fields})
