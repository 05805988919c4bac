"""Evals of the OpenAI dialect, their runs and what each run found, item by item."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.orm import Session

from moatelier.contracts import now
from moatelier.errors import Conflict, NotFound
from store.db import insert_once, reading, session
from store.dialect_tables import EvalItemRow, EvalRunRow, StoredEvalRow
from store.tables import Base, Stored

RunStatus = Literal["queued", "in_progress", "completed", "canceled", "failed"]
OPEN: frozenset[RunStatus] = frozenset({"queued", "in_progress"})
Order = Literal["asc", "desc"]
_Row = TypeVar("_Row", StoredEvalRow, EvalRunRow)


class StoredEval(Stored):
    """What is judged: the data source's configuration, and criteria as graders."""

    id: str
    project: str
    name: str
    config: dict[str, Any]
    criteria: list[dict[str, Any]]
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime


class EvalRun(Stored):
    """One run: where its items come from, the criteria as they were, and in the end what is told of it."""

    id: str
    project: str
    eval: str
    name: str
    status: RunStatus
    source: dict[str, Any]
    criteria: list[dict[str, Any]]
    metadata: dict[str, str]
    error: dict[str, Any] | None
    told: dict[str, Any] | None
    created_at: datetime


class EvalItem(Stored):
    """One item, counted from 0; `passed` is None where it could not be judged."""

    run: str
    number: int
    project: str
    passed: bool | None
    body: dict[str, Any]
    created_at: datetime


def _eval(row: StoredEvalRow) -> StoredEval:
    plain = {name: getattr(row, name) for name in StoredEval.model_fields if name != "metadata"}
    return StoredEval(metadata=row.meta, **plain)


def _run(row: EvalRunRow) -> EvalRun:
    plain = {name: getattr(row, name) for name in EvalRun.model_fields if name != "metadata"}
    return EvalRun(metadata=row.meta, **plain)


def create(
    project: str,
    *,
    id: str,
    name: str,
    config: Mapping[str, Any],
    criteria: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, str],
) -> StoredEval:
    """Keep an eval. Idempotent by id: a repeat returns what is there.

    Raises:
        Conflict: The id is taken in another project.
    """
    moment = now()
    row: dict[str, Any] = {
        "id": id,
        "project": project,
        "name": name,
        "config": dict(config),
        "criteria": [*map(dict, criteria)],
    }
    with session() as opened:
        times = {"meta": dict(metadata), "created_at": moment, "updated_at": moment}
        insert_once(opened, StoredEvalRow, [row | times], conflict=["id"])
        made = _eval(opened.get_one(StoredEvalRow, id))
    if made.project != project:
        raise Conflict("This eval id is taken.", where=id, remedy="Send it without an id.")
    return made


def _owned(opened: Session, kind: type[_Row], project: str, id: str, *, locked: bool = False) -> _Row:
    row = opened.get(kind, id, with_for_update=locked)
    if row is None or row.project != project:
        what = "eval" if kind is StoredEvalRow else "run of an eval"
        raise NotFound(f"There is no such {what} in this project.", where=id, remedy="List them to see what there is.")
    return row


def get(project: str, id: str) -> StoredEval:
    """An eval of this project. Raises NotFound."""
    with reading() as opened:
        return _eval(_owned(opened, StoredEvalRow, project, id))


def change(project: str, id: str, *, name: str | None, metadata: Mapping[str, str] | None) -> StoredEval:
    """Give an eval another name or other metadata; what is None stays. Raises NotFound."""
    with session() as opened:
        row = _owned(opened, StoredEvalRow, project, id, locked=True)
        row.name = row.name if name is None else name
        row.meta = row.meta if metadata is None else dict(metadata)
        row.updated_at = now()
        return _eval(row)


def delete(project: str, id: str) -> None:
    """Delete an eval with its runs and all that they found. Raises NotFound, and Conflict while a run goes on."""
    with session() as opened:
        row = _owned(opened, StoredEvalRow, project, id, locked=True)
        going = select(EvalRunRow.id).where(EvalRunRow.eval == id, EvalRunRow.status.in_(sorted(OPEN)))
        if run := opened.scalar(going.limit(1)):
            raise Conflict("A run of this eval goes on.", where=run, remedy="Cancel it, or wait for its end.")
        opened.delete(row)


def list_evals(
    project: str, *, after: str | None, limit: int, order: Order = "asc", by: str = "created_at"
) -> list[StoredEval]:
    """The project's evals by the time they were made or changed. Raises NotFound for an unknown `after`."""
    assert by in ("created_at", "updated_at"), by
    query = select(StoredEvalRow).where(StoredEvalRow.project == project)
    with reading() as opened:
        seen = _owned(opened, StoredEvalRow, project, after) if after is not None else None
        return [_eval(row) for row in opened.scalars(_paged(query, StoredEvalRow, seen, order, by).limit(limit))]


def _paged(query: Select[Any], kind: type[Base], seen: Any, order: Order, by: str) -> Select[Any]:
    moment, id = getattr(kind, by), kind.id  # type: ignore[attr-defined]  # both tables have one
    if seen is not None:
        last, key = getattr(seen, by), seen.id
        beyond = (moment > last, id > key) if order == "asc" else (moment < last, id < key)
        query = query.where(or_(beyond[0], and_(moment == last, beyond[1])))
    return query.order_by(moment, id) if order == "asc" else query.order_by(moment.desc(), id.desc())


# ---------------------------------------------------------------- runs


def create_run(
    project: str,
    *,
    id: str,
    eval: str,
    name: str,
    source: Mapping[str, Any],
    metadata: Mapping[str, str],
    status: RunStatus = "queued",
    told: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
) -> EvalRun:
    """Write a run of an eval, judged by its criteria of this moment. Idempotent by id.

    Raises:
        NotFound: There is no such eval.
        Conflict: The id is taken by a run of another eval.
    """
    with session() as opened:
        above = _owned(opened, StoredEvalRow, project, eval)
        row: dict[str, Any] = {"id": id, "project": project, "eval": eval, "name": name, "status": status}
        row["source"] = dict(source)
        row |= {"criteria": above.criteria, "meta": dict(metadata), "created_at": now()}
        row |= {"told": told and dict(told), "error": error and dict(error)}
        insert_once(opened, EvalRunRow, [row], conflict=["id"])
        made = _run(opened.get_one(EvalRunRow, id))
    if made.eval != eval:
        raise Conflict("This run id is taken.", where=id, remedy="Send it without an id.")
    return made


def get_run(project: str, eval: str, id: str) -> EvalRun:
    """A run of an eval. Raises NotFound."""
    with reading() as opened:
        row = _owned(opened, EvalRunRow, project, id)
        if row.eval != eval:
            raise NotFound("This eval has no such run.", where=id, remedy="List its runs.")
        return _run(row)


def find_run(id: str) -> EvalRun | None:
    """A run of any project, for workers; None when it was deleted."""
    with reading() as opened:
        row = opened.get(EvalRunRow, id)
        return None if row is None else _run(row)


def list_runs(
    project: str, eval: str, *, after: str | None, limit: int, order: Order = "asc", status: RunStatus | None = None
) -> list[EvalRun]:
    """An eval's runs by time. Raises NotFound for an unknown `after`."""
    query = select(EvalRunRow).where(EvalRunRow.project == project, EvalRunRow.eval == eval)
    if status is not None:
        query = query.where(EvalRunRow.status == status)
    with reading() as opened:
        seen = _owned(opened, EvalRunRow, project, after) if after is not None else None
        return [_run(row) for row in opened.scalars(_paged(query, EvalRunRow, seen, order, "created_at").limit(limit))]


def settle_run(
    id: str, status: RunStatus, *, told: Mapping[str, Any] | None = None, error: Mapping[str, Any] | None = None
) -> EvalRun | None:
    """Say how far a run is. One that has ended keeps its end; None when it was deleted."""
    with session() as opened:
        row = opened.get(EvalRunRow, id, with_for_update=True)
        if row is None:
            return None
        if row.status in OPEN:
            row.status = status
            row.told = row.told if told is None else dict(told)
            row.error = row.error if error is None else dict(error)
        return _run(row)


def delete_run(project: str, eval: str, id: str) -> None:
    """Delete a run with what it found. Raises NotFound, and Conflict while it goes on."""
    run = get_run(project, eval, id)
    if run.status in OPEN:
        raise Conflict("The run goes on.", where=id, remedy="Cancel it first.")
    with session() as opened:
        opened.delete(_owned(opened, EvalRunRow, project, id, locked=True))


# ---------------------------------------------------------------- items


def add_item(run: EvalRun, number: int, passed: bool | None, body: Mapping[str, Any]) -> None:
    """Keep what was found of an item. Idempotent: the first finding stays."""
    row = {"run": run.id, "number": number, "project": run.project, "passed": passed, "body": dict(body)}
    with session() as opened:
        if opened.get(EvalRunRow, run.id) is not None:  # it may have been deleted meanwhile
            insert_once(opened, EvalItemRow, [row | {"created_at": now()}], conflict=["run", "number"])


def judged(run: str) -> set[int]:
    """Numbers of the items that are judged already."""
    with reading() as opened:
        return set(opened.scalars(select(EvalItemRow.number).where(EvalItemRow.run == run)))


def get_item(project: str, run: str, number: int) -> EvalItem:
    """One item. Raises NotFound."""
    with reading() as opened:
        row = opened.get(EvalItemRow, (run, number))
        if row is None or row.project != project:
            raise NotFound("This run has no such item.", where=f"{run}/{number}", remedy="List its items.")
        return EvalItem.model_validate(row)


def list_items(
    project: str,
    run: str,
    *,
    after: int | None = None,
    limit: int,
    order: Order = "asc",
    passed: bool | None = None,
) -> list[EvalItem]:
    """A run's items by number; with `passed` only those that did, or that did not."""
    query = select(EvalItemRow).where(EvalItemRow.project == project, EvalItemRow.run == run)
    if passed is not None:
        query = query.where(EvalItemRow.passed.is_(passed))
    if after is not None:
        query = query.where(EvalItemRow.number > after if order == "asc" else EvalItemRow.number < after)
    query = query.order_by(EvalItemRow.number if order == "asc" else EvalItemRow.number.desc()).limit(limit)
    with reading() as opened:
        return [EvalItem.model_validate(row) for row in opened.scalars(query)]


def counts(run: str) -> dict[str, int]:
    """How many items passed, failed and could not be judged."""
    query = select(EvalItemRow.passed, func.count()).where(EvalItemRow.run == run).group_by(EvalItemRow.passed)
    with reading() as opened:
        found = {passed: number for passed, number in opened.execute(query)}
    told = {"passed": found.get(True, 0), "failed": found.get(False, 0), "errored": found.get(None, 0)}
    return told | {"total": sum(told.values())}
