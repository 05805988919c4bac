"""Following the event log: replay what is there, then wait for more, until whatever is followed has ended.

A stream holds no thread while it waits and costs one short read every `LONGEST_S` when nothing happens; the log is the
only source, so a client that comes back with the last id it saw misses nothing and sees nothing twice.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from sse_starlette import ServerSentEvent

from moatelier.contracts import Event
from moatelier.errors import InvalidRequest

SHORTEST_S, LONGEST_S = 0.05, 0.4
"""Pause between two looks: short after news, doubling to the longest while nothing happens."""


@dataclass(frozen=True)
class Look:
    """What one look at the store found.

    Attributes:
        news: Events after the one that was asked for, in order.
        ended: No further events will come after these.
    """

    news: list[Event]
    ended: bool


async def follow(look: Callable[[int], Look], after: int) -> AsyncIterator[Event]:
    """Every event after id `after`, as it comes, until a look says that it is the last.

    Args:
        look: Reads the store (in a thread) from an event id on. It must find out whether things have ended *before*
            it reads the events, or the last ones may be missed.
        after: Where to begin.
    """
    pause = SHORTEST_S
    while True:
        found = await to_thread.run_sync(look, after)
        for event in found.news:
            assert event.id is not None
            after = event.id
            yield event
        if found.ended:
            return
        pause = SHORTEST_S if found.news else min(2 * pause, LONGEST_S)
        await asyncio.sleep(pause)


def event_json(event: Event) -> dict[str, Any]:
    """An event as every stream shows it."""
    return event.model_dump(mode="json", exclude={"project", "stream"})


def sse(kind: str, data: Any, id: int | None = None) -> ServerSentEvent:
    """A server-sent event with JSON data."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return ServerSentEvent(text, event=kind, id=None if id is None else str(id), sep="\n")


def cursor(last_event_id: str | None, default: int) -> int:
    """The event id a client wants to go on from.

    Raises:
        InvalidRequest: It is no id that a stream of ours has sent.
    """
    if not last_event_id:
        return default
    if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 19):
        raise InvalidRequest("`Last-Event-ID` is not an id of this stream.", where="last-event-id")
    return max(default, int(last_event_id))
