"""`moatelier rollout`, `lessons`, `retrain`, `alerts` and `monitors` as a person uses them."""

import json
from collections.abc import Iterator

import pytest

from graphs import lessons as gathering
from moatelier.errors import Conflict, NotFound
from store import adapters, alerts, monitors
from tests.api.conftest import make_adapter
from tests.graphs.learning import ALIAS, answered, champion, judge
from tests.moatelier.conftest import Command


@pytest.fixture
def record(command: Command) -> Iterator[adapters.AdapterRecord]:
    yield champion()


def ok(command: Command, *words: str) -> str:
    done = command(*words)
    assert done.exit_code == 0, (done.output, done.exception)
    return " ".join(done.stdout.split())


def test_a_rollout_is_begun_shown_promoted_and_taken_back(command: Command, record: adapters.AdapterRecord) -> None:
    other = make_adapter(seed=2)
    begun = ok(command, "rollout", "start", ALIAS, other.model_id, "--share", "0.3", "--shadow", "10")
    assert begun.endswith("is in its shadow")
    [listed] = json.loads(ok(command, "rollout", "list", "--json"))
    assert (listed["alias"], listed["state"], listed["plan"]["share"]) == (ALIAS, "shadow", 0.3)
    shown = ok(command, "rollout", "show", ALIAS)
    assert f"of {ALIAS}: shadow" in shown and f"challenger {other.digest[:8]}" in shown
    assert "is promoted" in ok(command, "rollout", "promote", ALIAS)
    assert adapters.alias_of("default", ALIAS) == (other.digest, 2)
    assert "is rolled_back" in ok(command, "rollout", "revert", ALIAS)
    assert isinstance(command("rollout", "revert", "nobody").exception, NotFound)
    assert ok(command, "rollout", "start", ALIAS, other.digest).endswith("canary")
    assert isinstance(command("rollout", "start", ALIAS, other.digest).exception, Conflict)
    assert "is stopped" in ok(command, "rollout", "stop", ALIAS)


def test_lessons_are_approved_and_a_retrain_begins(command: Command, record: adapters.AdapterRecord) -> None:
    for number in range(4):
        judge(answered(record, f"question {number}"), label="b")
    gathering.gather()
    listed = json.loads(ok(command, "lessons", "list", ALIAS, "--status", "pending", "--json"))
    assert len(listed) == 4 and listed[0]["body"]["label"] == "b" and "voice" not in listed[0]
    assert ok(command, "lessons", "reject", listed[0]["completion"]) == "1 are rejected"
    assert isinstance(command("retrain", "now", ALIAS).exception, NotFound)
    assert ok(command, "retrain", "when", ALIAS, "--rows", "100", "--schedule", "0 3 * * 1") == f"kept for {ALIAS}"
    assert isinstance(command("retrain", "now", ALIAS).exception, Conflict)
    assert ok(command, "lessons", "approve", "--all", ALIAS) == "3 are approved"
    assert ok(command, "retrain", "now", ALIAS).endswith("begins with 3 lessons")
    [retrain] = json.loads(ok(command, "retrain", "list", "--json"))
    assert (retrain["cause"], retrain["status"]) == ("person", "fired")
    [trigger] = json.loads(ok(command, "retrain", "triggers", "--json"))
    assert trigger["plan"]["rows"] == 100 and trigger["next_at"]
    assert "not trained again" in ok(command, "retrain", "never", ALIAS)


def test_alerts_and_monitors_are_listed(command: Command, record: adapters.AdapterRecord) -> None:
    made = alerts.raise_once("default", "latency", ALIAS, "It is slow.", {}, about="1")
    assert made is not None and "It is slow." in ok(command, "alerts", "list", "--unseen")
    assert ok(command, "alerts", "seen", made.id) == f"{made.id} was seen"
    assert json.loads(ok(command, "alerts", "list", "--unseen", "--json")) == []
    monitors.put(monitors.get("default", ALIAS, record.digest), last=1, state={}, reference=None)
    [monitor] = json.loads(ok(command, "monitors", "list", "--json"))
    assert monitor["model"] == ALIAS and monitor["learning"]
    assert ok(command, "monitors", "reset", ALIAS) == f"{ALIAS} is learnt anew"
