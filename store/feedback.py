"""What people thought of answers, kept with the route that led to each, so that feedback can move later routes.

A *voice* is who speaks: the owner of a key, or, where the judged request named a `user`, that user of this key. No
decision rests on one voice: of each only its first words count, `VOICE_WORDS` on each side. So whoever sends a
thousand thumbs has said no more than somebody who sends five.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from moatelier.contracts import Feedback, RouteDecision, now
from moatelier.errors import InvalidRequest, NotFound, RateLimited
from moatelier.settings import settings
from store import events, exchanges
from store.db import reading, session
from store.exchanges import Exchange
from store.tables import FeedbackRow, Stored

ROUTE = "route"
"""The kind of the events that hold route decisions; their job is the completion's id."""
LONGEST = 20_000
"""Characters of an edit, a label or a comment."""
MOST_WORDS = 100_000
"""Characters of a conversation that comes with feedback."""
WORDS = frozenset({"messages", "answer"})
VOICE_WORDS = 5
"""Words of one voice on one side that count when two sides are compared."""
KEY_WORDS = 50
"""Words of one key on one candidate in one region that move routes."""
T = TypeVar("T")


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
    rollout: str | None = None
    side: str | None = None
    subject: str | None = None
    at: datetime

    @property
    def voice(self) -> str:
        """Who speaks."""
        return voice_of(self.key, self.subject)


def voice_of(key: str, subject: str | None) -> str:
    """Who speaks by a key, about the request of a subject."""
    return f"{key}/{subject}" if subject else key


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
        RateLimited: The key has judged as many answers within a day as it may.
    """
    said = feedback.model_dump(exclude={"completion", *WORDS})
    if all(value is None for value in said.values()):
        raise InvalidRequest("The feedback says nothing.", where="rating", remedy=f"Give one of {', '.join(said)}.")
    for field, value in said.items():
        if isinstance(value, str) and len(value) > LONGEST:
            what = f"The text has {len(value)} characters; {LONGEST} are kept at most."
            raise InvalidRequest(what, where=field, remedy="Shorten it.")
    route = route_of(project, feedback.completion)
    row = FeedbackRow(project=project, completion=feedback.completion, key=key, reward=reward, at=now(), **said)
    words = _words_in(project, feedback)
    for name in ("requested", "chosen", "region", "propensity", "rollout", "side", "subject"):
        setattr(row, name, getattr(route, name))
    with session() as opened:
        if opened.get(FeedbackRow, (project, feedback.completion, key)) is None:
            _need_room(opened, project, key)
        kept = StoredFeedback.model_validate(opened.merge(row))
    exchanges.append(words)  # of what the service has kept itself, nothing changes
    return kept


def _words_in(project: str, feedback: Feedback) -> list[Exchange]:
    """What was asked and answered, where whoever judges brings it. Raises InvalidRequest."""
    if feedback.messages is None or feedback.answer is None:
        return []
    told = [(turn.get("role"), turn.get("content")) for turn in feedback.messages]
    turns = [{"role": role, "content": text} for role, text in told if isinstance(role, str) and isinstance(text, str)]
    if len(turns) < len(told):
        raise InvalidRequest("A message has a role and a text.", where="messages", remedy="Send texts alone.")
    if sum(len(turn["content"]) for turn in turns) + len(feedback.answer) > MOST_WORDS:
        raise InvalidRequest(
            f"The words have more than {MOST_WORDS} characters.", where="messages", remedy="Shorten them."
        )
    return [Exchange(project=project, completion=feedback.completion, messages=turns, answer=feedback.answer, at=now())]


def _need_room(opened: Session, project: str, key: str) -> None:
    most = settings().feedback_per_day
    mine = select(func.count()).where(FeedbackRow.project == project, FeedbackRow.key == key)
    if (opened.scalar(mine.where(FeedbackRow.at >= now() - timedelta(days=1))) or 0) >= most:
        raise RateLimited(
            f"This key has judged {most} answers within a day; further words are not taken.",
            where="MOATELIER_FEEDBACK_PER_DAY",
            remedy="Judge again later, or have the operator raise the setting.",
            retry_after_s=3600,
        )


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
    side: str | None = None


def words(project: str, since: datetime) -> list[Word]:
    """One word a completion since a moment, in the order in which the first came. Several voices' words are one."""
    query = select(FeedbackRow).where(FeedbackRow.project == project, FeedbackRow.at >= since)
    return _words(query)


def words_of(project: str, rollout: str) -> list[Word]:
    """The same, on the answers that a rollout has drawn."""
    return _words(select(FeedbackRow).where(FeedbackRow.project == project, FeedbackRow.rollout == rollout))


def newest(rollout: str) -> datetime | None:
    """When something was said last on an answer of a rollout. For the worker."""
    with reading() as opened:
        return opened.scalar(select(func.max(FeedbackRow.at)).where(FeedbackRow.rollout == rollout))


def _words(query: Select[FeedbackRow]) -> list[Word]:
    query = query.where(FeedbackRow.reward.is_not(None)).order_by(FeedbackRow.at, FeedbackRow.completion)
    with reading() as opened:
        rows = list(opened.scalars(query))
    said: dict[str, list[FeedbackRow]] = defaultdict(list)
    for row in first_of_each(rows, lambda row: (voice_of(row.key, row.subject), row.requested, row.chosen)):
        said[row.completion].append(row)
    return [_word(each) for each in said.values()]


def _word(rows: list[FeedbackRow]) -> Word:
    good = sum(row.reward or 0 for row in rows) / len(rows)
    return Word(requested=rows[0].requested, chosen=rows[0].chosen, good=good, side=rows[0].side)


def first_of_each(items: Iterable[T], whose: Callable[[T], Hashable], most: int = VOICE_WORDS) -> Iterator[T]:
    """The items in their order, of each owner at most the first `most`."""
    counts: Counter[Hashable] = Counter()
    for item in items:
        counts[whose(item)] += 1
        if counts[whose(item)] <= most:
            yield item


def tallies(project: str) -> dict[tuple[str, str], tuple[int, int]]:
    """(region, candidate) -> (good, bad), over all feedback on answers that were routed; of a key at most `KEY_WORDS`.

    A key that has said more in a region keeps the share of good in what it said.
    """
    grouped = FeedbackRow.region, FeedbackRow.chosen, FeedbackRow.key
    query = select(*grouped, func.count(), func.sum(FeedbackRow.reward)).where(
        FeedbackRow.project == project, FeedbackRow.region.is_not(None), FeedbackRow.reward.is_not(None)
    )
    found: dict[tuple[str, str], tuple[int, int]] = {}
    with reading() as opened:
        for region, chosen, _, count, total in opened.execute(query.group_by(*grouped)).all():
            if region is None:
                continue
            counted = min(int(count), KEY_WORDS)
            good = round(int(total or 0) * counted / int(count))
            before = found.get((region, chosen), (0, 0))
            found[region, chosen] = before[0] + good, before[1] + counted - good
    return found
