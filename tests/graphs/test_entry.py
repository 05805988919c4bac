"""An adapter enters the router again because a person asked: what joins, what still stays out, and how it fails."""

from pathlib import Path

import pytest
from sqlalchemy import delete

from graphs import jobs
from moatelier.errors import DataError
from serving import roster
from store import db, events, records, tasks
from store.tables import RecordRow
from tests.api.running import wait_until
from tests.graphs.conftest import Player
from tests.graphs.test_routing import asked, die_once_at, task
from tests.graphs.test_routing import pulled as pulled


def adapter_of(ended: tasks.Task) -> str:
    assert ended.result is not None
    return str(ended.result["adapter"])


def enter(adapter: str) -> tasks.Run:
    run = jobs.enter("default", adapter)
    wait_until(lambda: tasks.find_run(run.id).ended, timeout_s=30)
    return tasks.find_run(run.id)


def test_who_stayed_out_joins_later_and_the_old_record_stays(player: Player, pulled: None, tmp_path: Path) -> None:
    player.jobs.told_apart = 0.5
    adapter = adapter_of(task(player, tmp_path))
    player.jobs.told_apart = 1.0
    run = enter(adapter)
    assert run.status == "success"
    before, after = roster.entries("default")
    assert (before.joined, after.joined) == (False, True)
    assert roster.load("default").router.adapters == (adapter,)
    kinds = [record.kind for record in records.list_records("default", adapter)]
    assert kinds.count("router_profile") == kinds.count("router_card") == 2
    told = events.read("default", stream=run.thread, limit=100)
    assert [(event.kind, event.task) for event in told] == [("decision", None), ("routing", None)]
    assert told[0].body["reason"] == after.reason


def test_who_is_still_too_alike_stays_out(player: Player, pulled: None, tmp_path: Path) -> None:
    player.jobs.told_apart = 0.5
    adapter = adapter_of(task(player, tmp_path))
    assert enter(adapter).status == "success"
    assert [entry.joined for entry in roster.entries("default")] == [False, False]


def test_asked_twice_it_enters_twice(player: Player, pulled: None, tmp_path: Path) -> None:
    adapter = adapter_of(task(player, tmp_path))
    assert [enter(adapter).status for _ in range(2)] == ["success"] * 2
    assert len(roster.entries("default")) == 3 and roster.load("default").router.adapters == (adapter,)


def test_one_whose_place_was_taken_does_not_come_back(player: Player, pulled: None, tmp_path: Path) -> None:
    first, second = (adapter_of(task(player, tmp_path, more)) for more in ("", ", seed 7"))
    enter(first)
    entry = roster.entries("default")[-1]
    assert entry.adapter == first and not entry.joined and f"{second[:8]} has taken its place" in entry.reason
    assert roster.load("default").router.adapters == (second,)
    enter(second)
    assert roster.load("default").router.adapters == (second,)


def test_what_the_gate_did_not_promote_stays_out(player: Player, pulled: None, tmp_path: Path) -> None:
    player.jobs.score = 0.5
    adapter = adapter_of(task(player, tmp_path))
    enter(adapter)
    assert "did not promote" in roster.entries("default")[-1].reason


def test_without_the_embedding_model_the_run_says_what_to_do(player: Player, tmp_path: Path) -> None:
    adapter = adapter_of(task(player, tmp_path))
    run = enter(adapter)
    assert run.status == "error" and run.error is not None
    assert run.error["code"] == "model_unavailable" and "moatelier models pull" in run.error["remedy"]
    assert roster.entries("default") == [] and tasks.find_thread(run.thread).status == "error"


def test_who_was_left_out_for_want_of_the_model_enters_by_being_asked_for(
    player: Player, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    adapter = adapter_of(task(player, tmp_path))
    request.getfixturevalue("pulled")
    assert enter(adapter).status == "success"
    assert roster.load("default").router.adapters == (adapter,)


def test_a_job_that_fails_fails_the_run_alone(player: Player, pulled: None, tmp_path: Path) -> None:
    adapter = adapter_of(task(player, tmp_path))
    player.jobs.fail["routing"] = DataError("No dev row.", remedy="Give more.")
    run = enter(adapter)
    assert run.status == "error" and run.error is not None and run.error["what"] == "No dev row."
    assert roster.load("default").router.adapters == (adapter,), "as it stood before"
    del player.jobs.fail["routing"]
    assert enter(adapter).status == "success"


def test_without_the_gates_record_nothing_is_decided(player: Player, pulled: None, tmp_path: Path) -> None:
    adapter = adapter_of(task(player, tmp_path))
    with db.session() as opened:
        opened.execute(delete(RecordRow).where(RecordRow.kind == "gate_decision"))
    run = enter(adapter)
    assert run.status == "error" and run.error is not None and run.error["code"] == "not_found"


def test_killed_after_its_record_it_asks_for_the_same_job_and_signs_nothing_new(
    player: Player, pulled: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapter_of(task(player, tmp_path))
    died = die_once_at("routing.after_join", monkeypatch)
    run = jobs.enter("default", adapter)
    wait_until(lambda: bool(died), timeout_s=30)
    assert not tasks.find_run(run.id).ended
    jobs.submit_run(run.id)
    wait_until(lambda: tasks.find_run(run.id).ended, timeout_s=30)
    _, first, second = asked(player)
    assert first == second and len(roster.entries("default")) == 2


def test_its_thread_is_nobodys_conversation(player: Player, pulled: None, tmp_path: Path) -> None:
    run = enter(adapter_of(task(player, tmp_path)))
    thread = tasks.find_thread(run.thread)
    assert (thread.graph, thread.task, thread.status) == ("entry", None, "idle")
