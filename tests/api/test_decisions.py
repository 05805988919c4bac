"""Route decisions wait out a store that is down."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from api.decisions import STREAM, DecisionLog
from moatelier.contracts import Event
from serving.targets import Target
from store import events

TARGET = Target("tiny", "tiny", "tiny", None, None, "base")


def test_decisions_that_could_not_be_written_are_written_later(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append, failures = events.append, iter([True, False])

    def sometimes(batch: Sequence[Event]) -> None:
        if next(failures, False):
            raise OSError("the store is down")
        append(batch)

    monkeypatch.setattr(events, "append", sometimes)

    async def scene() -> None:
        log = DecisionLog()
        for number in range(3):
            log.note("default", TARGET.decision(f"chatcmpl-{number}"))
        await log.flush()
        log.note("default", TARGET.decision("chatcmpl-3"))
        await log.flush()

    asyncio.run(scene())
    written = [event.job for event in events.read("default", stream=STREAM, limit=10)]
    assert written == [f"chatcmpl-{number}" for number in range(4)]
