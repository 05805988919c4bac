"""Feedback becomes lessons: words are redacted, contradictions found, and a person asked before anything is learnt.

The sweeper calls `gather`. It is idempotent: a lesson is the answer's, and what is said later replaces what was said
before, until a retrain has used it. Private data is taken out here, in the worker, where the recognisers may be loaded.
"""

import logging
from collections.abc import Sequence
from datetime import datetime

from graphs import metrics
from moatelier.contracts import LessonBody, LessonStatus, now
from moatelier.errors import NotFound
from moatelier.settings import settings
from modalities.text.private import redact
from store import adapters, exchanges, lessons
from store.exchanges import Exchange
from store.feedback import StoredFeedback
from store.lessons import Lesson

log = logging.getLogger("moatelier.worker")
MOST = 200
"""Answers within a sweep."""
KEPT_DAYS = 30.0
"""Words that somebody brought with feedback are kept so long, where the setting keeps none."""


def gather(since: datetime | None = None) -> int:
    """Make lessons of what was said since a moment and has none yet; how many, at most `MOST`. For the sweeper."""
    exchanges.redact_new(redact)
    exchanges.forget(settings().keep_texts_days or KEPT_DAYS)
    made = 0
    for words in lessons.news(since, MOST):
        project, completion = words[0].project, words[0].completion
        if exchanges.waits(project, completion):
            continue  # the next sweep: more came than one redacts
        lesson = lesson_of(words, exchanges.get(project, completion))
        metrics.LESSONS.labels(lessons.put(lesson) or "too_late").inc()
        made += 1
    return made


def lesson_of(words: Sequence[StoredFeedback], exchange: Exchange | None) -> Lesson:
    """What is learnt from everything that was said on one answer, in the order in which it was."""
    body = LessonBody(
        messages=tuple(exchange.messages) if exchange else (),
        answer=exchange.answer if exchange else "",
        edit=redact(edit) if (edit := _last([each.edit for each in words])) else None,
        label=_last([each.label for each in words]),
        good=_thumbs(words),
    )
    return Lesson(
        project=words[0].project,
        completion=words[0].completion,
        alias=alias_of(words[0]),
        voice=words[-1].voice,
        body=body,
        status=_status(words, body),
        retrain=None,
        at=max(each.at for each in words),
        updated_at=now(),
    )


def _last(said: Sequence[str | None]) -> str | None:
    return next((text.strip() for text in reversed(said) if text and text.strip()), None)


def _thumbs(words: Sequence[StoredFeedback]) -> bool | None:
    ratings = {each.rating for each in words if each.rating is not None}
    return None if len(ratings) != 1 else ratings.pop() > 0


def _status(words: Sequence[StoredFeedback], body: LessonBody) -> LessonStatus:
    labels = {each.label.strip() for each in words if each.label and each.label.strip()}
    ratings = {each.rating for each in words if each.rating is not None}
    if len(labels) > 1 or len(ratings) > 1:
        return "contradictory"
    if body.label is not None and body.good and body.answer.strip() not in ("", body.label):
        return "contradictory"  # liked, and yet something else is right
    says = body.wanted is not None or body.good is not None
    return "pending" if says and body.messages else "wordless"


def alias_of(word: StoredFeedback) -> str:
    """The alias whose model is to learn it: the name that was asked, or one of what `auto` chose; "" for none."""
    try:
        aliases = adapters.get(word.project, word.chosen).aliases
    except NotFound:  # a base, a recipe, or an adapter that is gone
        return ""
    if word.requested in aliases or word.rollout is not None:
        return word.requested
    return aliases[0] if aliases else ""
