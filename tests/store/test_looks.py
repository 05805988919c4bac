"""The budget of looks at locked rows."""

import threading
from pathlib import Path

import pytest

from moatelier.errors import LooksExhausted
from store import audit, looks

LOCKED = "e" * 64


def test_looks_are_counted_from_one(store: Path) -> None:
    assert looks.looks_taken("p", LOCKED) == 0
    assert [looks.take_look("p", LOCKED, f"task-{number}", "c" * 64) for number in range(3)] == [1, 2, 3]
    assert looks.looks_taken("p", LOCKED) == 3
    assert looks.take_look("p", "f" * 64, "task-0", "c" * 64) == 1
    assert looks.take_look("other", LOCKED, "task-0", "c" * 64) == 1


def test_a_gate_that_runs_again_uses_up_nothing(store: Path) -> None:
    assert looks.take_look("p", LOCKED, "task-1", "c" * 64) == 1
    assert looks.take_look("p", LOCKED, "task-1", "c" * 64) == 1
    assert looks.take_look("p", LOCKED, "task-1", "d" * 64) == 2
    assert [line.action for line in audit.read("p")] == ["test.look", "test.look"]


def test_the_budget_ends(store: Path) -> None:
    for number in range(2):
        looks.need_look("p", LOCKED, allowed=2)
        looks.take_look("p", LOCKED, f"task-{number}", "c" * 64, allowed=2)
    with pytest.raises(LooksExhausted):
        looks.need_look("p", LOCKED, allowed=2)
    with pytest.raises(LooksExhausted, match="all 2 looks.*--test FILE"):
        looks.take_look("p", LOCKED, "task-2", "c" * 64, allowed=2)
    assert looks.take_look("p", LOCKED, "task-1", "c" * 64, allowed=2) == 2
    assert looks.looks_taken("p", LOCKED) == 2


def test_lookers_at_once_get_numbers_of_their_own(store: Path) -> None:
    outcomes: list[int] = []

    def look(number: int) -> None:
        try:
            outcomes.append(looks.take_look("p", LOCKED, f"task-{number}", "c" * 64))
        except LooksExhausted:
            outcomes.append(0)

    threads = [threading.Thread(target=look, args=(number,)) for number in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [0, 0, 1, 2, 3, 4, 5]


def test_looks_at_several_sets_are_taken_together_or_not_at_all(store: Path) -> None:
    other = "f" * 64
    assert looks.take_looks("p", [LOCKED, other], "task-0", "c" * 64, allowed=2) == [1, 1]
    assert looks.take_look("p", other, "task-1", "c" * 64, allowed=2) == 2
    with pytest.raises(LooksExhausted, match=other):
        looks.take_looks("p", [LOCKED, other], "task-2", "c" * 64, allowed=2)
    assert (looks.looks_taken("p", LOCKED), looks.looks_taken("p", other)) == (1, 2)
    assert looks.take_looks("p", [LOCKED, other], "task-0", "c" * 64, allowed=2) == [1, 1]
    assert len(audit.read("p")) == 3
