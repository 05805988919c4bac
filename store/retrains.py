"""Triggers, and their firings. A firing is one transaction: its row is written and its lessons are taken together.

What follows (a file, a task) bears ids made of the firing's own, so that whoever dies when, there is one retrain.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from moatelier.contracts import Cause, RetrainPlan, now
from moatelier.errors import Conflict, InvalidRequest, NotFound
from moatelier.faults import fault_point
from moatelier.ids import digest_json
from store import audit, lessons
from store.adapters import get as adapter
from store.crons import next_time
from store.db import exclusive, reading, session
from store.live_tables import AlertRow, RetrainRow, RolloutRow, TriggerRow
from store.tables import AliasRow, Stored, TaskRow
from store.tasks import ENDED

RetrainStatus = Literal["fired", "started", "failed"]


class Trigger(Stored):
    """When an alias's model is trained again."""

    project: str
    alias: str
    plan: RetrainPlan
    enabled: bool
    next_at: datetime | None
    created_at: datetime
    updated_at: datetime


class Retrain(Stored):
    """One firing. `champion` is whom its outcome has to hold its own against."""

    id: str
    project: str
    alias: str
    number: int
    cause: Cause
    plan: RetrainPlan
    champion: str
    lessons: int
    status: RetrainStatus
    task: str | None
    error: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime


def _trigger(row: TriggerRow) -> Trigger:
    return Trigger(**{name: getattr(row, name) for name in Trigger.model_fields})


def _retrain(row: RetrainRow) -> Retrain:
    return Retrain(**{name: getattr(row, name) for name in Retrain.model_fields})


def put_trigger(project: str, alias: str, plan: RetrainPlan, *, actor: str, enabled: bool = True) -> Trigger:
    """Write down when an alias's model is trained again, in the place of what was written before.

    Raises:
        NotFound: There is no such alias.
        InvalidRequest: The schedule is none, nothing would ever begin, or it is no model of texts.
    """
    record = adapter(project, alias)
    if alias not in record.aliases:
        raise NotFound("There is no such alias.", where=alias, remedy="`moatelier adapters list` shows them.")
    if record.manifest.modality != "text":
        raise InvalidRequest(
            f"What people say on answers about {record.manifest.modality} is counted, and not learnt from.",
            where=alias,
            remedy="Start a task with new files.",
        )
    if plan.rows is None and plan.schedule is None and not plan.drift:
        raise InvalidRequest("Nothing would ever begin.", where="plan", remedy="Name rows, a schedule or drift.")
    due = next_time(plan.schedule, plan.timezone, now()) if plan.schedule else None
    with session() as opened:
        row = opened.get(TriggerRow, (project, alias)) or TriggerRow(project=project, alias=alias, created_at=now())
        row.plan, row.enabled, row.next_at, row.updated_at = plan.model_dump(mode="json"), enabled, due, now()
        opened.add(row)
        audit.write(project, actor, "trigger.set", alias, {"plan": row.plan, "enabled": enabled}, within=opened)
        opened.flush()
        return _trigger(row)


def get_trigger(project: str, alias: str) -> Trigger:
    """The trigger of an alias. Raises NotFound."""
    with reading() as opened:
        return _trigger(_owned(opened, project, alias))


def _owned(opened: Session, project: str, alias: str) -> TriggerRow:
    row = opened.get(TriggerRow, (project, alias), with_for_update=True)
    if row is None:
        raise NotFound(
            "The alias has no trigger.", where=alias, remedy=f"Write one: moatelier retrain when {alias} --rows 200"
        )
    return row


def delete_trigger(project: str, alias: str, *, actor: str) -> None:
    """Begin nothing more by itself. Raises NotFound."""
    with session() as opened:
        opened.delete(_owned(opened, project, alias))
        audit.write(project, actor, "trigger.delete", alias, {}, within=opened)


def list_triggers(project: str) -> list[Trigger]:
    """The project's triggers, by alias."""
    query = select(TriggerRow).where(TriggerRow.project == project).order_by(TriggerRow.alias)
    with reading() as opened:
        return [_trigger(row) for row in opened.scalars(query)]


def enabled() -> list[tuple[str, str]]:
    """(project, alias) of all triggers that are on, for the sweeper."""
    with reading() as opened:
        rows = opened.execute(select(TriggerRow.project, TriggerRow.alias).where(TriggerRow.enabled)).all()
        return [(project, alias) for project, alias in rows]


def fire(project: str, alias: str, *, by: str | None = None) -> Retrain | None:
    """Begin a retrain if the alias's trigger says so now; None when it does not.

    Args:
        project: Whose alias it is.
        alias: The alias.
        by: The person who wants one now, whatever the trigger says, so long as there are approved lessons.

    Raises:
        NotFound: There is no trigger, or no alias any more.
        Conflict: A person wants one, and there are no approved lessons, or one is under way.
    """
    fault_point("retrain.before_fire")
    with session() as opened:
        exclusive(opened, "aliases")
        row = _owned(opened, project, alias)
        plan, last = RetrainPlan.model_validate(row.plan), _last(opened, project, alias)
        ready = lessons.ready(opened, project, alias, plan.per_voice)
        hindered = _hindered(opened, project, alias, last)
        if by is not None and (hindered or not ready):
            raise Conflict(
                hindered or "There are no approved lessons to learn from.",
                where=alias,
                remedy=f"See what there is: moatelier lessons list {alias}",
            )
        cause = "person" if by is not None else _cause(opened, row, plan, ready, last)
        if row.next_at is not None and row.next_at <= now() and not hindered and plan.schedule:
            row.next_at = next_time(plan.schedule, plan.timezone, now())
        if cause is None or hindered:
            return None
        made = _enter(opened, row, plan, cause, last)
        told = {"retrain": made.id, "cause": cause, "lessons": made.lessons}
        audit.write(project, by or "trigger", "retrain.fired", alias, told, within=opened)
        opened.flush()
        fault_point("retrain.inside_fire")
        fired = _retrain(made)
    fault_point("retrain.after_fire")
    return fired


def _last(opened: Session, project: str, alias: str) -> RetrainRow | None:
    mine = select(RetrainRow).where(RetrainRow.project == project, RetrainRow.alias == alias)
    return opened.scalar(mine.order_by(RetrainRow.number.desc()).limit(1))


def _hindered(opened: Session, project: str, alias: str, last: RetrainRow | None) -> str:
    """Why nothing can begin now; "" when it can."""
    going = select(RolloutRow.id).where(RolloutRow.project == project, RolloutRow.open == alias)
    if rollout := opened.scalar(going):
        return f"The rollout {rollout} is under way."
    if last is not None and last.status == "fired":
        return f"The retrain {last.id} is beginning."
    if last is not None and last.task and (task := opened.get(TaskRow, last.task)) and task.status not in ENDED:
        return f"The task {last.task} is under way."
    return ""


def _cause(opened: Session, row: TriggerRow, plan: RetrainPlan, ready: int, last: RetrainRow | None) -> Cause | None:
    if not row.enabled or (last is not None and now() - last.created_at < timedelta(hours=plan.rest_hours)):
        return None
    if plan.rows is not None and ready >= plan.rows:
        return "rows"
    if ready < plan.least:
        return None
    if row.next_at is not None and row.next_at <= now():
        return "schedule"
    drifted = (
        select(func.count())
        .select_from(AlertRow)
        .where(
            AlertRow.project == row.project,
            AlertRow.model == row.alias,
            AlertRow.monitor.startswith("drift"),
            AlertRow.created_at > (last.created_at if last is not None else row.created_at),
        )
    )
    return "drift" if plan.drift and opened.scalar(drifted) else None


def _enter(opened: Session, row: TriggerRow, plan: RetrainPlan, cause: Cause, last: RetrainRow | None) -> RetrainRow:
    pointed = opened.get(AliasRow, (row.project, row.alias))
    if pointed is None:
        raise NotFound("There is no such alias any more.", where=row.alias, remedy="Delete its trigger.")
    number = last.number + 1 if last is not None else 1
    made = RetrainRow(id=f"retrain-{digest_json([row.project, row.alias, number])[:12]}", project=row.project)
    made.alias, made.number, made.cause, made.plan = row.alias, number, cause, plan.model_dump(mode="json")
    made.champion, made.status, made.created_at, made.updated_at = pointed.digest, "fired", now(), now()
    made.lessons = lessons.take(opened, row.project, row.alias, made.id, plan.per_voice)
    opened.add(made)
    opened.flush()
    return made


def fired() -> list[Retrain]:
    """Retrains of all projects whose task has not been started, oldest first. For the sweeper."""
    query = select(RetrainRow).where(RetrainRow.status == "fired").order_by(RetrainRow.created_at)
    with reading() as opened:
        return [_retrain(row) for row in opened.scalars(query)]


def settle(id: str, status: RetrainStatus, *, task: str | None = None, error: Mapping[str, Any] | None = None) -> None:
    """Write down what became of a firing. For the worker."""
    with session() as opened:
        row = opened.get_one(RetrainRow, id)
        row.status, row.task, row.updated_at = status, task, now()
        row.error = None if error is None else dict(error)


def data_of(project: str, alias: str, champion_task: str, number: int) -> list[Retrain]:
    """The retrains whose lessons the champion has not been trained on, up to this one, oldest first.

    The champion's file holds those of the retrain that made it and of all before; what later ones took, whose outcome
    was not promoted, must not be lost.
    """
    mine = select(RetrainRow).where(RetrainRow.project == project, RetrainRow.alias == alias)
    with reading() as opened:
        own = opened.scalar(mine.where(RetrainRow.task == champion_task))
        since = own.number if own is not None else 0
        rows = opened.scalars(
            mine.where(RetrainRow.number > since, RetrainRow.number <= number).order_by(RetrainRow.number)
        )
        return [_retrain(row) for row in rows]


def get(project: str, id: str) -> Retrain:
    """A retrain of this project. Raises NotFound."""
    with reading() as opened:
        row = opened.get(RetrainRow, id)
        if row is None or row.project != project:
            raise NotFound("There is no such retrain in this project.", where=id, remedy="`moatelier retrain list`.")
        return _retrain(row)


def list_retrains(project: str, alias: str | None = None, limit: int = 100) -> list[Retrain]:
    """The project's retrains, newest first."""
    query = select(RetrainRow).where(RetrainRow.project == project)
    if alias is not None:
        query = query.where(RetrainRow.alias == alias)
    with reading() as opened:
        rows = opened.scalars(query.order_by(RetrainRow.created_at.desc(), RetrainRow.id).limit(limit))
        return [_retrain(row) for row in rows]
