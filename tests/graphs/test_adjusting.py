"""Between two trials: the ledger is written before a trial and completed after it, and read by the next choice."""

import json
from pathlib import Path
from typing import Any

import pytest

from graphs import adjusting
from moatelier.contracts import LedgerEntry
from moatelier.errors import DataError
from store import ledger
from tests import fakes
from tests.graphs.conftest import Player

REQUEST = "Train a classifier that predicts intent from message, at least 80% accuracy, at most 3 trials"


@pytest.fixture
def started(player: Player, tmp_path: Path) -> Player:
    """A task whose trials stay below its goal."""
    player.jobs.score = 0.5
    player.say(REQUEST, train=player.upload(fakes.support_csv(tmp_path / "support.csv")))
    player.pending()
    return player


def lines(player: Player) -> list[LedgerEntry]:
    task = player.ended()
    return ledger.entries("default", task.id)


def test_each_further_trial_has_its_reason_and_its_effect(started: Player) -> None:
    started.approve()
    second, third = lines(started)
    assert (second.trial, second.symptom, second.level, second.status) == (1, "healthy", "recipe", "measured")
    assert (third.trial, third.symptom) == (2, "plateau"), "the second was no better than the first"
    assert second.effect == 0 and second.credit == 0.5 and second.measure == "select accuracy"
    assert second.ids and second.ids[0].startswith("report:evaluate-")
    [tally] = [one for one in ledger.tallies("default") if one.symptom == "healthy"]
    assert (tally.action, tally.tries, tally.credit) == (second.action, 1, 0.5)


def test_a_decision_names_its_action_and_its_cause(started: Player) -> None:
    started.approve()
    started.ended()
    told = [event.body["decision"] for event in started.events("decision") if event.body["agent"] == "trainer"]
    assert told[1]["action"] == "half_more_epochs" and told[1]["symptom"] == "healthy" and told[1]["level"] == "recipe"


def test_the_report_shows_what_was_found_and_done(started: Player) -> None:
    started.approve()
    task = started.ended()
    record = json.loads((started.home / "reports" / task.id / "report.json").read_bytes())
    assert [one["trial"] for one in record["diagnoses"]] == [0, 1, 2]
    assert [one["action"] for one in record["ledger"]] == [line.action for line in lines(started)]
    page = (started.home / "reports" / task.id / "index.html").read_text()
    assert "What each trial showed, and what was done about it" in page and "recipe: half more epochs" in page


def test_a_trial_that_fails_counts_against_what_was_tried(started: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    canned, made = started.jobs._train, 0

    def once(spec: dict[str, Any]) -> dict[str, Any]:
        nonlocal made
        made += 1
        if made > 1:
            raise DataError("The loss is not finite.")
        return canned(spec)

    monkeypatch.setattr(started.jobs, "_train", once)
    started.approve()
    [line] = lines(started)
    assert (line.status, line.credit, line.effect) == ("failed", 0.0, None)


def test_what_was_decided_before_a_crash_is_decided_again(started: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node runs twice; in between other tasks' trials have turned the order of what is most successful."""
    advance, twice = adjusting.advance, []

    def again(state: Any) -> Any:
        first = advance(state)
        if "spec" not in first:
            return first
        [*_, line] = ledger.entries("default", state["task"])
        for number in range(30):
            ledger.write("default", line.model_copy(update={"task": f"task-{number}"}))
            ledger.complete("default", f"task-{number}", line.trial, status="measured", credit=0.0)
        twice.append((first, advance(state)))
        return first

    monkeypatch.setattr(adjusting, "advance", again)
    started.approve()
    assert len(lines(started)) == len(twice) == 2 and all(first == second for first, second in twice)
