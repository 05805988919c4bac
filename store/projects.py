"""Projects, and how much each may keep and train. Every other table's rows belong to one of them."""

import re
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from moatelier.contracts import now
from moatelier.errors import Conflict, InvalidRequest, NotFound, QuotaExceeded
from moatelier.settings import settings
from store import audit
from store.db import exclusive, insert_once, reading, session
from store.dialect_tables import PartRow
from store.tables import AdapterRow, EventRow, FileRow, ProjectRow, Stored, TaskRow

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
WINDOW = timedelta(days=30)
"""Training time is counted over this long."""
GB, HOUR_S = 1_000_000_000, 3600


class Project(Stored):
    """A project; quotas that are None are those of the settings."""

    id: str
    storage_bytes: int | None
    training_seconds: int | None
    created_at: datetime


def ensure(opened: Session, id: str) -> bool:
    """Enter a project unless it is there; whether it is new."""
    return bool(insert_once(opened, ProjectRow, [{"id": id}], conflict=["project_id"]))


def create(
    id: str, *, storage_bytes: int | None = None, training_seconds: int | None = None, actor: str = "store"
) -> Project:
    """Make a project.

    Raises:
        InvalidRequest: The id is none.
        Conflict: There is one of this id.
    """
    if not _ID.fullmatch(id):
        raise InvalidRequest("A project's id is 1-63 of a-z, 0-9, `-` and `_`.", where="id", remedy="Choose another.")
    with session() as opened:
        if not ensure(opened, id):
            raise Conflict("There is a project of this id already.", where=id, remedy="Choose another id.")
        row = opened.get_one(ProjectRow, id)
        row.storage_bytes, row.training_seconds = storage_bytes, training_seconds
        told = {"storage_bytes": storage_bytes, "training_seconds": training_seconds}
        audit.write(id, actor, "project.create", id, told, within=opened)
        return Project.model_validate(row)


def get(id: str) -> Project:
    """One project. Raises NotFound."""
    with reading() as opened:
        if row := opened.get(ProjectRow, id):
            return Project.model_validate(row)
    raise NotFound("There is no such project.", where=id, remedy="`moatelier projects list` shows them.")


def list_projects() -> list[Project]:
    """All of them, oldest first."""
    with reading() as opened:
        rows = opened.scalars(select(ProjectRow).order_by(ProjectRow.created_at, ProjectRow.id))
        return [Project.model_validate(row) for row in rows]


def stored_bytes(opened: Session, project: str, but: str = "") -> int:
    """What a project's files, uploads that are under way and adapters take.

    Args:
        opened: A transaction.
        project: Whose.
        but: An upload whose parts are left out: they are about to become a file.
    """
    files = opened.scalar(select(func.sum(FileRow.bytes)).where(FileRow.project == project)) or 0
    parts = select(func.sum(PartRow.bytes)).where(PartRow.project == project, PartRow.upload != but)
    digests = opened.scalars(select(AdapterRow.digest).where(AdapterRow.project == project))
    folders = [settings().home / "adapters" / digest for digest in digests]
    return int(files) + int(opened.scalar(parts) or 0) + sum(_folder_bytes(path) for path in folders if path.is_dir())


@lru_cache(maxsize=65_536)
def _folder_bytes(folder: Path) -> int:
    """A sealed bundle's: it never changes, and is not to be walked again within a transaction."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def need_storage(opened: Session, project: str, more: int, but: str = "") -> None:
    """Raise QuotaExceeded if a project may not keep so many more bytes. Within the transaction that keeps them.

    Nobody else keeps something for the project before its end, so what two find free together is not given twice.
    """
    exclusive(opened, f"storage:{project}")
    row = opened.get(ProjectRow, project)
    quota = row.storage_bytes if row and row.storage_bytes is not None else round(GB * settings().storage_gb)
    if quota and (used := stored_bytes(opened, project, but)) + more > quota:
        raise QuotaExceeded(
            f"The project may keep {quota} bytes; it has {used}, and this needs {more}.",
            where=project,
            remedy="Delete files, or have the quota raised.",
        )


def training_seconds(project: str) -> float:
    """How long the project has trained in the last 30 days, in seconds: jobs as the event log tells of them.

    One whose end nobody wrote down has ended with its task.
    """
    query = select(EventRow.job, EventRow.step, EventRow.at, EventRow.body, TaskRow.ended_at)
    query = query.outerjoin(TaskRow, (TaskRow.id == EventRow.task) & (TaskRow.project == project)).where(
        EventRow.project == project
    )
    with reading() as opened:
        rows = opened.execute(query.where(EventRow.kind == "job", EventRow.at > now() - WINDOW)).all()
    began = {job: at for job, step, at, body, _ in rows if step == 0 and body.get("job") == "train"}
    ended = {job: over for job, step, _, _, over in rows if step == 0 and over is not None}
    ended |= {job: at for job, step, at, _, _ in rows if step == 1}
    return float(sum(max(0.0, (ended.get(job, now()) - at).total_seconds()) for job, at in began.items()))


def need_training_time(project: str) -> None:
    """Raise QuotaExceeded if a project has trained for as long as it may."""
    with reading() as opened:
        row = opened.get(ProjectRow, project)
        own = None if row is None else row.training_seconds
    quota = own if own is not None else round(HOUR_S * settings().training_hours)
    if quota and (used := training_seconds(project)) >= quota:
        raise QuotaExceeded(
            f"The project may train for {quota / HOUR_S:.1f} hours in 30 days, and has for {used / HOUR_S:.1f}.",
            where=project,
            remedy="Wait until earlier trainings are older than that, or have the quota raised.",
        )
