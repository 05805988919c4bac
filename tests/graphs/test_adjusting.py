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
    """The node dies after the line is written; meanwhile another task has changed what is most successful."""
    choose, chosen = adjusting._step, []

    def die_once(*args: Any) -> Any:
        step = choose(*args)
        chosen.append(step)
        if len(chosen) == 1:
            adjusting._written(args[0], step, "before the crash", len(args[3]))
            return choose(*args)
        return step

    monkeypatch.setattr(adjusting, "_step", die_once)
    started.approve()
    assert lines(started)[0].change == "before the crash"
