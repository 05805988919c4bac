"""What was done about what trials fell short by, and how it fared."""

from pathlib import Path
from typing import Any

from moatelier.contracts import LedgerEntry
from store import ledger


def entry(task: str = "task-1", trial: int = 1, **fields: Any) -> LedgerEntry:
    values: dict[str, Any] = {
        "task": task,
        "trial": trial,
        "symptom": "underfit",
        "confidence": 0.8,
        "text": "Not learnt to the end.",
        "ids": ("job:a", "report:b"),
        "level": "recipe",
        "action": "more_epochs",
        "change": "Changed: epochs 3.0 -> 6.0.",
        "spec": "5" * 64,
    }
    return LedgerEntry(**values | fields)


def test_the_first_word_on_a_trial_stands(store: Path) -> None:
    first = ledger.write("p", entry())
    assert ledger.write("p", entry(action="higher_rate")) == first == ledger.find("p", "task-1", 1)
    assert first.ids == ("job:a", "report:b") and first.status == "open" and first.effect is None


def test_what_came_of_it_is_noted_once_it_is_known(store: Path) -> None:
    ledger.write("p", entry())
    for _ in range(2):  # a node that runs again
        told = {"measure": "select accuracy", "before": 0.7, "after": 0.8, "credit": 0.98}
        ledger.complete("p", "task-1", 1, status="measured", **told)
    ledger.complete("p", "task-1", 0, status="failed", credit=0.0)  # the first trial has no line
    [line] = ledger.entries("p", "task-1")
    assert line.status == "measured" and line.effect is not None and abs(line.effect - 0.1) < 1e-9


def test_tallies_count_what_is_known_and_stay_within_the_project(store: Path) -> None:
    for trial, credit in ((1, 0.9), (2, 0.5), (3, None)):
        ledger.write("p", entry(trial=trial))
        if credit is not None:
            ledger.complete("p", "task-1", trial, status="measured", credit=credit)
    ledger.write("p", entry(task="task-2", action="higher_rate"))
    ledger.complete("p", "task-2", 1, status="failed", credit=0.0)
    ledger.write("other", entry())
    told = {(one.symptom, one.action): (one.tries, one.credit) for one in ledger.tallies("p")}
    assert told == {("underfit", "more_epochs"): (2, 1.4), ("underfit", "higher_rate"): (1, 0.0)}
    assert ledger.tallies("other") == [] and ledger.find("other", "task-2", 1) is None
