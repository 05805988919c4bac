"""Many questions to something slow, a few at a time; answers are kept, so that a killed job asks none of them twice.

Only answers are written down, each in a file of its own under a hash of what was asked: never the rows.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from evals.held_out import Question
from moatelier.faults import fault_point
from moatelier.ids import canonical_json, digest_json
from moatelier.job import Job, write_atomically

AT_ONCE = 8
"""Questions that are open together: enough to fill the engine's batch when each asks several proposers."""
STEPS = 100
"""About so many events tell of the progress."""

Ask = Callable[[Question], Awaitable[Any]]
"""Answers one question, as JSON; raises only what ends the whole job."""


async def ask_all(
    questions: Sequence[Question], ask: Ask, *, key: Any, job: Job, phase: str, at_once: int = AT_ONCE
) -> list[Any]:
    """The answers to all questions, in their order.

    Args:
        questions: What is asked.
        ask: Answers one of them.
        key: JSON that fixes what answers, such as the recipe's digest: kept answers of another key do not count.
        job: Keeps the answers in its folder, hears of the progress, and may be asked to stop.
        phase: Named in the progress.
        at_once: How many are open together.

    Raises:
        Cancelled: The job was asked to stop.
        MoatelierError: What `ask` raised; the other open questions are given up.
    """
    folder = _folder(job)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    places = asyncio.Semaphore(at_once)
    pace = _Pace(job, phase, len(questions))

    async def one(question: Question) -> Any:
        path = folder / f"{digest_json([key, question.messages, question.max_tokens])[:32]}.json"
        async with places:
            job.check()
            if path.exists():
                answer, asked = json.loads(path.read_bytes()), False
            else:
                answer, asked = await ask(question), True
                write_atomically(path, canonical_json(answer))
                fault_point(f"{phase}.asking")
            pace.tick(asked)
            return answer

    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(question)) for question in questions]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return [task.result() for task in running]


class _Pace:
    """Tells how far it is, and how long the rest will take at the pace so far."""

    def __init__(self, job: Job, phase: str, rows: int) -> None:
        self._job, self._phase, self._rows = job, phase, rows
        self._done = self._asked = 0
        self._begun = time.monotonic()

    def tick(self, asked: bool) -> None:
        self._done, self._asked = self._done + 1, self._asked + asked
        if self._done % max(1, self._rows // STEPS) and self._done < self._rows:
            return
        a_question = (time.monotonic() - self._begun) / max(self._asked, 1)
        left = round(a_question * (self._rows - self._done), 1)
        body = {"phase": self._phase, "done": self._done, "rows": self._rows, "seconds_left": left}
        self._job.emit("progress", self._done, **body)


def forget(job: Job) -> None:
    """Delete the kept answers: those to locked rows shall not lie about."""
    for path in _folder(job).glob("*.json"):
        path.unlink(missing_ok=True)


def _folder(job: Job) -> Path:
    return job.folder / "answers"
