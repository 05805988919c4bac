"""A run as its client follows it: as a stream, or as one answer at its end."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from anyio import to_thread
from fastapi import Header
from fastapi.responses import StreamingResponse
from sse_starlette import EventSourceResponse, ServerSentEvent

from api.follow import Look, event_json, follow, sse
from api.routes.threads.shapes import error_json, values_json
from store import events, tasks

LastEventId = Annotated[str | None, Header(alias="last-event-id")]
PAGE = 500
POLL_S = 0.2
HEARTBEAT_S = 10.0
"""A waiting answer sends a line break this often, so that nobody in between takes the connection for dead."""


@dataclass(frozen=True)
class Span:
    """A run's part of its thread's events: those after `start`; when the run has ended, up to its `last_event`."""

    run: tasks.Run
    start: int

    def look(self, after: int) -> Look:
        """Read on after an event id (blocking)."""
        run = tasks.find_run(self.run.id)
        found = events.read(run.project, stream=run.thread, after=after, limit=PAGE)
        if not run.ended:
            return Look(found, ended=False)
        mine = [event for event in found if (event.id or 0) <= run.last_event]
        return Look(mine, ended=len(mine) < PAGE)


def span(run: tasks.Run) -> Span:
    """Where a run's events begin: after the last one of the run before it (blocking).

    A first run's begin with its thread: events stay when a thread is deleted, and its id may be used again.
    """
    before = events.last_id(run.project, stream=run.thread, before=tasks.find_thread(run.thread).created_at)
    seen = False
    for other in tasks.list_runs(run.project, run.thread, limit=1000):
        if seen:
            before = other.last_event
            break
        seen = other.id == run.id
    return Span(run, before)


def place(run: tasks.Run, then: str) -> dict[str, str]:
    """Headers that lead back to a run, for a client whose connection breaks."""
    here = f"/threads/{run.thread}/runs/{run.id}"
    return {"content-location": here, "location": f"{here}/{then}"}


def answered(part: Span) -> StreamingResponse:
    """A response that waits for the run's end."""
    return StreamingResponse(result(part), media_type="application/json", headers=place(part.run, "join"))


def streamed(part: Span, after: int) -> EventSourceResponse:
    """A response that tells the run's events as they come."""
    return EventSourceResponse(stream(part, after), sep="\n", headers=place(part.run, "stream"))


async def stream(part: Span, after: int) -> AsyncIterator[ServerSentEvent]:
    """`metadata`, the run's events as `custom`, then `values` (or `error`) and `end`."""
    run = part.run
    yield sse("metadata", {"run_id": run.id, "thread_id": run.thread, "attempt": 1}, id=after)
    async for event in follow(part.look, after):
        yield sse("custom", event_json(event), id=event.id)
    ended, thread = await to_thread.run_sync(_end, run.id)
    if ended.status == "error":
        yield sse("error", error_json(ended))
    else:
        yield sse("values", values_json(thread))
    yield sse("end", {"run_id": run.id, "status": ended.status})


async def result(part: Span) -> AsyncIterator[bytes]:
    """The thread's values when the run has ended, as JSON behind line breaks that keep the connection alive."""
    silent_s = 0.0
    ended, thread = await to_thread.run_sync(_end, part.run.id)
    while not ended.ended:
        await asyncio.sleep(POLL_S)
        silent_s += POLL_S
        if silent_s >= HEARTBEAT_S:
            silent_s = 0.0
            yield b"\n"
        ended, thread = await to_thread.run_sync(_end, part.run.id)
    failed = {"__error__": error_json(ended)} if ended.status == "error" else {}
    yield json.dumps({**values_json(thread), **failed}, ensure_ascii=False).encode()


def _end(run_id: str) -> tuple[tasks.Run, tasks.Thread]:
    run = tasks.find_run(run_id)
    return run, tasks.find_thread(run.thread)
