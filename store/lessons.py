r"""Lessons: what feedback on answers teaches, redacted, and what a person has said to each.

pending -> approved -> used          by a retrain
\-> rejected     contradictory | wordless: nothing to be approved, until somebody says more
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, exists, func, or_, select
from sqlalchemy.orm import Session

from moatelier.contracts import LessonBody, LessonStatus, now
from moatelier.errors import Conflict, InvalidRequest, NotFound
from moatelier.ids import digest_json
from store import audit
from store.db import exclusive, reading, session
from store.feedback import StoredFeedback, first_of_each
from store.live_tables import ExchangeRow, LessonRow
from store.tables import FeedbackRow, Stored

OPEN: tuple[LessonStatus, ...] = ("pending", "approved", "contradictory")


class Lesson(Stored):
    """One lesson. `voice` is who spoke last; it says nothing to anybody else."""

    project: str
    completion: str
    alias: str
    voice: str
    body: LessonBody
    status: LessonStatus
    retrain: str | None
    at: datetime
    updated_at: datetime


def _record(row: LessonRow) -> Lesson:
    return Lesson(**{name: getattr(row, name) for name in Lesson.model_fields})


def news(since: datetime | None = None, limit: int = 200) -> list[list[StoredFeedback]]:
    """What was said on completions of all projects since their lessons were made, by completion. For the sweeper.

    Args:
        since: Look no further back than this.
        limit: At most so many completions.
    """
    mine = and_(LessonRow.project == FeedbackRow.project, LessonRow.completion == FeedbackRow.completion)
    words = and_(ExchangeRow.project == LessonRow.project, ExchangeRow.completion == LessonRow.completion)
    # Words are written behind the answers: feedback may have come before them.
    late = exists().where(words, ExchangeRow.at > LessonRow.updated_at)
    known = exists().where(mine, LessonRow.at >= FeedbackRow.at, or_(LessonRow.status != "wordless", ~late))
    query = select(FeedbackRow.project, FeedbackRow.completion).where(~known)
    if since is not None:
        query = query.where(FeedbackRow.at >= since)
    query = query.group_by(FeedbackRow.project, FeedbackRow.completion).order_by(func.min(FeedbackRow.at)).limit(limit)
    with reading() as opened:
        found = []
        for project, completion in opened.execute(query).all():
            said = select(FeedbackRow).where(FeedbackRow.project == project, FeedbackRow.completion == completion)
            rows = opened.scalars(said.order_by(FeedbackRow.at, FeedbackRow.key))
            found.append([StoredFeedback.model_validate(row) for row in rows])
        return found


def put(lesson: Lesson) -> LessonStatus | None:
    """Keep a lesson in the place of an earlier one of its completion; its status, None if that one was used already."""
    with session() as opened:
        exclusive(opened, "lessons")
        before = opened.get(LessonRow, (lesson.project, lesson.completion))
        if before is not None and before.status == "used":
            before.at = lesson.at  # the row is trained on: what is said now comes too late
            return None
        fields = lesson.model_dump() | {"body": lesson.body.model_dump(mode="json")}
        opened.merge(LessonRow(**fields))
        opened.flush()
        if lesson.status == "pending":
            _judge_alike(opened, lesson)
        return opened.get_one(LessonRow, (lesson.project, lesson.completion)).status  # type: ignore[return-value]


def _judge_alike(opened: Session, lesson: Lesson) -> None:
    """Lessons that ask the same and want different labels contradict each other, all of them."""
    if lesson.body.label is None:
        return
    asked = digest_json(list(lesson.body.messages))
    query = select(LessonRow).where(LessonRow.project == lesson.project, LessonRow.alias == lesson.alias)
    rows = [
        row
        for row in opened.scalars(query.where(LessonRow.status.in_(OPEN)))
        if row.body.get("label") and digest_json(row.body["messages"]) == asked
    ]
    if len({row.body["label"] for row in rows}) > 1:
        for row in rows:
            row.status, row.updated_at = "contradictory", now()


def list_lessons(
    project: str, *, alias: str | None = None, status: LessonStatus | None = None, limit: int = 100
) -> list[Lesson]:
    """The project's lessons, newest first."""
    query = select(LessonRow).where(LessonRow.project == project)
    if alias is not None:
        query = query.where(LessonRow.alias == alias)
    if status is not None:
        query = query.where(LessonRow.status == status)
    with reading() as opened:
        rows = opened.scalars(query.order_by(LessonRow.at.desc(), LessonRow.completion).limit(limit))
        return [_record(row) for row in rows]


def counts(project: str, alias: str) -> dict[str, int]:
    """Status -> how many lessons of an alias have it."""
    query = select(LessonRow.status, func.count()).where(LessonRow.project == project, LessonRow.alias == alias)
    with reading() as opened:
        return {status: int(count) for status, count in opened.execute(query.group_by(LessonRow.status)).all()}


def judge(project: str, completions: Sequence[str], status: LessonStatus, *, actor: str) -> int:
    """Approve or reject lessons, all or none; how many changed.

    Raises:
        NotFound: One is none of this project.
        Conflict: One cannot be approved: it contradicts another, nothing is known of its words, or it was used.
    """
    assert status in ("approved", "rejected"), "what a person may say"
    changed = 0
    with session() as opened:
        exclusive(opened, "lessons")
        for completion in completions:
            row = opened.get(LessonRow, (project, completion))
            if row is None:
                raise NotFound("There is no such lesson in this project.", where=completion)
            if row.status == "used" or (status == "approved" and row.status not in ("pending", "approved", "rejected")):
                raise Conflict(
                    f"The lesson is {row.status}.",
                    where=completion,
                    remedy="Reject it, or say on its answer what is right: moatelier feedback ID --label L",
                )
            if row.status != status:
                row.status, row.updated_at = status, now()
                changed += 1
        if changed:
            told = {"count": changed, "lessons": digest_json(sorted(completions))}
            audit.write(project, actor, f"lessons.{status}", completions[0], told, within=opened)
    return changed


def judge_pending(project: str, alias: str, status: LessonStatus, *, actor: str) -> int:
    """Approve or reject all of an alias that are pending; how many."""
    pending = list_lessons(project, alias=alias, status="pending", limit=100_000)
    return judge(project, [each.completion for each in pending], status, actor=actor) if pending else 0


def take(opened: Session, project: str, alias: str, retrain: str, per_voice: int) -> int:
    """Mark an alias's approved lessons as used by a retrain, within its transaction; how many.

    Of one voice at most `per_voice` are taken, the oldest; the others stay approved.
    """
    exclusive(opened, "lessons")
    mine = LessonRow.project == project, LessonRow.alias == alias, LessonRow.status == "approved"
    rows = list(opened.scalars(select(LessonRow).where(*mine).order_by(LessonRow.at, LessonRow.completion)))
    taken = list(first_of_each(rows, lambda row: row.voice, per_voice))
    for row in taken:
        row.status, row.retrain, row.updated_at = "used", retrain, now()
    return len(taken)


def ready(opened: Session, project: str, alias: str, per_voice: int) -> int:
    """How many approved lessons `take` would take."""
    mine = LessonRow.project == project, LessonRow.alias == alias, LessonRow.status == "approved"
    voices = Counter(opened.scalars(select(LessonRow.voice).where(*mine)))
    return sum(min(count, per_voice) for count in voices.values())


def of_retrain(project: str, retrain: str) -> list[Lesson]:
    """The lessons that a retrain took, oldest first."""
    query = select(LessonRow).where(LessonRow.project == project, LessonRow.retrain == retrain)
    with reading() as opened:
        return [_record(row) for row in opened.scalars(query.order_by(LessonRow.at, LessonRow.completion))]


def need_status(status: Any) -> LessonStatus | None:
    """A status from outside. Raises InvalidRequest."""
    known: tuple[LessonStatus, ...] = ("pending", "approved", "rejected", "contradictory", "wordless", "used")
    if status is not None and status not in known:
        raise InvalidRequest(f"No lesson is {status!r}.", where="status", remedy=f"Use one of {', '.join(known)}.")
    return None if status is None else next(each for each in known if each == status)
