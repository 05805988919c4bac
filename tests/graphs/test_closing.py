"""What a person is told at the end of a task."""

from pathlib import Path
from typing import Any

import pytest

from graphs.closing import closing_words
from store import tasks

RESULT: dict[str, Any] = {
    "model": "ft:tiny:desk:01234567",
    "alias": "desk",
    "promoted": True,
    "metric": "accuracy",
    "target": 0.9,
    "point": 0.96,
    "lower_bound": 0.9149,
    "rows": 196,
    "reason": "",
}


@pytest.mark.parametrize(
    ("status", "result", "told", "not_told"),
    [
        ("reached", RESULT, "lower bound 91.4% on 196 locked rows: the goal of 90.0% is reached. The model", ""),
        ("reached", RESULT, "also known as `desk`", ""),
        ("reached", RESULT | {"alias": None}, "another task took its name meanwhile", "also known as"),
        ("not_reached", RESULT | {"promoted": False, "alias": None}, "Not promoted", "also known as"),
        ("cancelled", RESULT | {"alias": None}, "The task was cancelled.", "Done"),
        ("rejected", None, "nothing was trained", "Done"),
        ("failed", None, "The task failed: The disk is full. /home Free some.", "Done"),
    ],
)  # fmt: skip
def test_the_words_are_true(home: Path, status: str, result: dict[str, Any] | None, told: str, not_told: str) -> None:
    names = {"thread": "t", "conversation": "c", "request": "r"}
    tasks.create_task("default", id="task-1", **names, train_file="f", test_file=None)
    error = {"code": "x", "what": "The disk is full.", "where": "/home", "remedy": "Free some."}
    tasks.update_task("task-1", status=status, result=result, error=error if status == "failed" else None)
    words = closing_words(tasks.find_task("task-1"))
    assert told in words
    assert not not_told or not_told not in words
