"""Asking many questions: in order, few at once, none twice."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from evals.held_out import Question
from graphs.questions import ask_all, forget
from moatelier.errors import Cancelled, UpstreamError
from moatelier.job import Job


def question(number: int) -> Question:
    return Question(str(number), str(number), ({"role": "user", "content": f"q {number}"},), "secret", 4)


class Asked:
    """Answers with the question's words; counts how many are open at once."""

    def __init__(self, fail_at: int = -1) -> None:
        self.asked: list[str] = []
        self.open = self.most = 0
        self.fail_at = fail_at

    async def __call__(self, question: Question) -> Any:
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0.001 * (int(question.id) % 3))
        self.open -= 1
        if int(question.id) == self.fail_at:
            raise UpstreamError("gone")
        self.asked.append(question.id)
        return {"text": question.messages[0]["content"]}


def ask(folder: Path, asked: Asked, count: int = 20, key: str = "recipe") -> list[Any]:
    job = Job(folder, quiet=True)
    return asyncio.run(ask_all([question(n) for n in range(count)], asked, key=key, job=job, phase="ask", at_once=4))


def test_answers_come_in_order_and_few_are_open_at_once(tmp_path: Path) -> None:
    asked = Asked()
    assert [answer["text"] for answer in ask(tmp_path, asked)] == [f"q {n}" for n in range(20)]
    assert 1 < asked.most <= 4
    told = [json.loads(line)["body"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [body["done"] for body in told] == list(range(1, 21)) and told[-1]["seconds_left"] == 0


def test_a_job_that_begins_again_asks_only_what_is_open(tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match="gone"):
        ask(tmp_path, Asked(fail_at=12))
    again = Asked()
    assert len(ask(tmp_path, again)) == 20
    assert "0" not in again.asked and "12" in again.asked
    other = Asked()
    ask(tmp_path, other, key="another recipe")
    assert len(other.asked) == 20


def test_nothing_of_the_rows_is_kept_and_the_answers_go(tmp_path: Path) -> None:
    ask(tmp_path, Asked())
    kept = list((tmp_path / "answers").iterdir())
    assert kept and not any("secret" in path.read_text() for path in kept)
    forget(Job(tmp_path, quiet=True))
    assert not list((tmp_path / "answers").iterdir())


def test_a_job_that_is_asked_to_stop_stops(tmp_path: Path) -> None:
    job, asked = Job(tmp_path, quiet=True), Asked()

    async def stopping(question: Question) -> Any:
        job.stop_reason = "SIGTERM"
        return await asked(question)

    with pytest.raises(Cancelled, match="SIGTERM"):
        asyncio.run(ask_all([question(n) for n in range(50)], stopping, key="r", job=job, phase="ask", at_once=2))
    assert len(asked.asked) <= 2


def test_many_questions_tell_about_a_hundred_times(tmp_path: Path) -> None:
    ask(tmp_path, Asked(), count=450)
    assert 90 <= len((tmp_path / "events.jsonl").read_text().splitlines()) <= 120
