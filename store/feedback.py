"""What people thought of answers, kept with the route that led to each, so that feedback can move later routes."""

from datetime import datetime

from sqlalchemy import func, select

from moatelier.contracts import Feedback, RouteDecision, now
from moatelier.errors import InvalidRequest, NotFound
from store import events
from store.db import reading, session
from store.tables import FeedbackRow, Stored

ROUTE = "route"
"""The kind of the events that hold route decisions; their job is the completion's id."""
LONGEST = 20_000
"""Characters of an edit, a label or a comment."""


class StoredFeedback(Stored):
    """One person's word on a completion. `reward` is what the router learns: 1 good, 0 bad, None nothing."""

    project: str
    completion: str
    key: str
    rating: int | None
    edit: str | None
    label: str | None
    comment: str | None
    reward: int | None
    requested: str
    chosen: str
    region: str | None
    propensity: float | None
    at: datetime


def route_of(project: str, completion: str) -> RouteDecision:
    """How a completion was routed.

    Raises:
        NotFound: The project has no such completion.
    """
    event = events.find(project, completion, ROUTE)
    if event is None:
        raise NotFound(
            "There is no such completion in this project.", where=completion, remedy="Send the `id` of an answer."
        )
    return RouteDecision.model_validate(event.body)


def put(project: str, key: str, feedback: Feedback, reward: int | None) -> StoredFeedback:
    """Keep feedback on a completion. The same key's later word on it replaces the earlier one.

    Args:
        project: Whose completion it is.
        key: Id of the API key that speaks.
        feedback: At least one thing is said.
        reward: What the router shall learn from it.

    Raises:
        InvalidRequest: Nothing is said, or too much.
        NotFound: The project has no such completion.
    """
    said = feedback.model_dump(exclude={"completion"})
    if all(value is None for value in said.values()):
        raise InvalidRequest("The feedback says nothing.", where="rating", remedy=f"Give one of {', '.join(said)}.")
    for field, value in said.items():
        if isinstance(value, str) and len(value) > LONGEST:
            what = f"The text has {len(value)} characters; {LONGEST} are kept at most."
            raise InvalidRequest(what, where=field, remedy="Shorten it.")
    route = route_of(project, feedback.completion)
    row = FeedbackRow(project=project, completion=feedback.completion, key=key, reward=reward, at=now(), **said)
    row.requested, row.chosen, row.region, row.propensity = (
        route.requested,
        route.chosen,
        route.region,
        route.propensity,
    )
    with session() as opened:
        return StoredFeedback.model_validate(opened.merge(row))


def list_feedback(project: str, completion: str) -> list[StoredFeedback]:
    """Everybody's word on a completion, the oldest first."""
    query = select(FeedbackRow).where(FeedbackRow.project == project, FeedbackRow.completion == completion)
    with reading() as opened:
        rows = opened.scalars(query.order_by(FeedbackRow.at, FeedbackRow.key))
        return [StoredFeedback.model_validate(row) for row in rows]


class Word(Stored):
    """What people thought of one completion: the mean reward of all who spoke of it, and when the first did."""

    requested: str
    chosen: str
    good: float


def words(project: str, since: datetime) -> list[Word]:
    """One word a completion since a moment, in the order in which the first came. Several keys' words are one."""
    first = func.min(FeedbackRow.at)
    query = select(FeedbackRow.requested, FeedbackRow.chosen, func.avg(FeedbackRow.reward))
    query = query.where(FeedbackRow.project == project, FeedbackRow.reward.is_not(None), FeedbackRow.at >= since)
    query = query.group_by(FeedbackRow.completion, FeedbackRow.requested, FeedbackRow.chosen)
    with reading() as opened:
        rows = opened.execute(query.order_by(first, FeedbackRow.completion)).all()
    return [Word(requested=requested, chosen=chosen, good=float(good)) for requested, chosen, good in rows]


def tallies(project: str) -> dict[tuple[str, str], tuple[int, int]]:
    """(region, candidate) -> (good, bad), over all feedback on answers that were routed."""
    query = select(FeedbackRow.region, FeedbackRow.chosen, func.count(), func.sum(FeedbackRow.reward)).where(
        FeedbackRow.project == project, FeedbackRow.region.is_not(None), FeedbackRow.reward.is_not(None)
    )
    with reading() as opened:
        rows = opened.execute(query.group_by(FeedbackRow.region, FeedbackRow.chosen)).all()
    return {
        (region, chosen): (int(good or 0), int(count - (good or 0)))
        for region, chosen, count, good in rows
        if region is not None
    }
