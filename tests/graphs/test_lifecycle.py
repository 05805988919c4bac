"""A task's whole way through the graphs, with canned jobs: what is asked, decided, done, and told."""

import threading
from pathlib import Path
from typing import Any

import pytest

from evals import report, vault
from graphs import closing, jobs, worker
from moatelier.errors import DataError
from modalities.text import data
from store import adapters, datasets, tasks
from tests import fakes
from tests.graphs.conftest import Player

REQUEST = "Train a classifier that predicts intent from message, at least 80% accuracy, at most 2 trials"


@pytest.fixture
def started(player: Player, tmp_path: Path) -> Player:
    player.say(REQUEST, train=player.upload(fakes.support_csv(tmp_path / "support.csv")))
    return player


def test_a_sentence_becomes_a_registered_adapter(started: Player) -> None:
    value = started.pending()
    assert value["type"] == "approval" and value["plan"]["goal"]["source"] == "user"
    assert value["forecast"]["seconds"] > 0
    started.approve()
    task = started.ended()
    assert task.status == "reached" and task.result is not None and task.result["promoted"]
    record = adapters.get("default", task.name)
    assert record.model_id == task.result["model"] and record.aliases == (task.name,)
    assert (started.home / "reports" / task.id / "index.html").exists()
    assert [kind for kind, _ in started.jobs.ran] == ["pull", "probe", "train", "evaluate", "evaluate", "gate"]


def test_every_agents_decision_is_in_the_event_log_with_its_reason(started: Player) -> None:
    started.approve()
    started.ended()
    decisions = started.events("decision")
    assert {"planner", "person", "curator", "trainer", "evaluator", "router"} <= {e.body["agent"] for e in decisions}
    assert all(event.body["reason"] for event in decisions if event.body["agent"] != "person")


def test_an_unclear_request_asks_and_the_answer_continues_the_same_thread(player: Player, tmp_path: Path) -> None:
    player.say("make it better", train=player.upload(fakes.support_csv(tmp_path / "support.csv")))
    value = player.pending()
    assert value["type"] == "questions" and any(question["field"] == "goal" for question in value["questions"])
    player.answer("at least 70% accuracy")
    value = player.pending()
    assert value["type"] == "approval" and value["plan"]["goal"]["value"]["target"] == 0.7


def test_a_message_on_a_waiting_thread_is_the_answer(player: Player, tmp_path: Path) -> None:
    player.say("make it better", train=player.upload(fakes.support_csv(tmp_path / "support.csv")))
    player.pending()
    player.say("80 percent accuracy")
    assert player.pending()["type"] == "approval"


def test_an_answer_that_is_carried_on_after_a_crash_answers_no_other_question(
    player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, died = worker._settle, threading.Event()

    def die_once(graph: Any, config: Any, run: tasks.Run, thread: tasks.Thread) -> str:
        if (
            thread.graph == "lifecycle"
            or died.is_set()
            or not (run.input or {})["messages"][0]["content"].startswith("80")
        ):
            return settle(graph, config, run, thread)
        died.set()
        return "killed"  # as by SIGKILL when the approval is already open, but nobody has written that down

    monkeypatch.setattr(worker, "_settle", die_once)
    player.say("make it better", train=player.upload(fakes.support_csv(tmp_path / "support.csv")))
    player.pending()
    player.say("80 percent accuracy")
    assert died.wait(30)
    jobs.submit_run(tasks.list_runs("default", player.thread)[0].id)
    assert player.pending()["type"] == "approval"
    assert [event for event in player.events("decision") if event.body["agent"] == "person"] == []


def test_a_task_that_is_cancelled_while_it_is_about_to_ask_does_not_wait(
    started: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = tasks.find_thread

    def cancelled_before_the_question_shows(id: str) -> tasks.Thread:
        thread = read(id)
        if thread.graph == "lifecycle" and thread.status == "interrupted" and thread.task:
            tasks.update_task(thread.task, cancel_requested=True)
        return thread

    monkeypatch.setattr(tasks, "find_thread", cancelled_before_the_question_shows)
    task = started.ended()
    assert task.status == "cancelled"


def test_a_task_whose_graph_breaks_tells_its_readers(started: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("a bug")

    started.pending()
    monkeypatch.setattr(closing, "close", broken)
    started.answer("no")
    task = started.ended()
    assert task.status == "failed" and task.error is not None and "a bug" in task.error["what"]
    assert [event.body["status"] for event in started.events("result")] == ["failed"]


def test_without_a_file_the_conversation_says_what_it_needs_and_takes_it_later(player: Player, tmp_path: Path) -> None:
    player.say(REQUEST)
    assert player.settled().status == "idle" and player.task() is None
    player.say("here it is", train=player.upload(fakes.support_csv(tmp_path / "support.csv")))
    assert player.pending()["plan"]["goal"]["value"]["target"] == 0.8


def test_rejecting_ends_the_task_and_trains_nothing(started: Player) -> None:
    started.pending()
    started.answer("no")
    assert started.ended().status == "rejected"
    assert "train" not in [kind for kind, _ in started.jobs.ran]


def test_an_edit_makes_a_new_version_that_has_to_be_approved(started: Player) -> None:
    first = started.pending()
    edit = {"type": "edit", "edited_action": {"name": "train", "args": {"goal": {"metric": "accuracy", "target": 0.7}}}}
    started.answer({"version": first["version"], "decisions": [edit]})
    second = started.pending()
    assert second["version"] != first["version"] and second["plan"]["goal"]["value"]["target"] == 0.7
    started.approve()
    assert started.ended().status == "reached"


def test_an_edit_that_is_not_valid_is_told_and_the_plan_still_waits(started: Player) -> None:
    first = started.pending()
    edit = {"type": "edit", "edited_action": {"name": "train", "args": {"goal": {"metric": "accuracy", "target": "x"}}}}
    started.answer({"version": first["version"], "decisions": [edit]})
    assert started.pending()["version"] == first["version"]
    assert "goal.target" in started.events("decision")[-1].body["reason"]
    started.approve()
    assert started.ended().status == "reached"


def test_a_stale_approval_approves_nothing(started: Player) -> None:
    started.pending()
    started.answer({"version": "0" * 64, "decisions": [{"type": "approve"}]})
    assert started.pending()["type"] == "approval"
    assert "train" not in [kind for kind, _ in started.jobs.ran]
    started.approve()
    started.ended()
    said = [
        event.body["decision"]["verdict"] for event in started.events("decision") if event.body["agent"] == "person"
    ]
    assert said == ["stale", "approve"]


def test_words_at_the_approval_change_the_plan(started: Player) -> None:
    started.pending()
    started.answer("make that at least 75% accuracy")
    assert started.pending()["plan"]["goal"]["value"]["target"] == 0.75


def test_a_goal_out_of_reach_ends_not_reached_with_the_best_so_far(started: Player) -> None:
    started.jobs.score = 0.6
    started.approve()
    task = started.ended()
    assert task.status == "not_reached" and task.result is not None
    assert task.result["point"] == 0.6 and not task.result["promoted"]
    assert adapters.get("default", task.result["model"]).aliases == ()
    assert [kind for kind, _ in started.jobs.ran].count("gate") == 1


def test_a_later_trial_that_fails_leaves_the_best_so_far(started: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    train = started.jobs._train

    def train_once(spec: dict[str, Any]) -> dict[str, Any]:
        started.jobs.fail["train"] = DataError("The loss became nan at step 7.", where="training")
        return train(spec)

    monkeypatch.setattr(started.jobs, "_train", train_once)
    started.jobs.score = 0.6
    started.approve()
    task = started.ended()
    assert task.status == "not_reached" and task.result is not None, task
    assert [kind for kind, _ in started.jobs.ran].count("train") == 2
    assert task.result["trials"] == 1 and "nan at step 7" in task.result["stopped_because"]


def test_a_jobs_error_ends_the_task_with_code_place_and_remedy(started: Player) -> None:
    started.jobs.fail["train"] = DataError("No trained token.", where="row 3", remedy="Add answers.")
    started.approve()
    task = started.ended()
    assert task.status == "failed"
    assert task.error == {"code": "data_error", "what": "No trained token.", "where": "row 3", "remedy": "Add answers."}


@pytest.mark.parametrize("content", ["message,intent\n", "message\nhello\nthere\n"])
def test_a_file_that_cannot_be_used_fails_before_anything_is_queued(
    player: Player, tmp_path: Path, content: str
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text(content)
    player.say(REQUEST, train=player.upload(bad))
    thread = player.settled()
    if thread.status == "interrupted":
        assert thread.interrupts[0]["value"]["type"] == "questions"
    else:
        task = player.ended()
        assert task.status == "failed" and task.error is not None and "bad.csv" in str(task.error)
    assert player.jobs.ran == []


def test_cancelling_a_task_that_waits_for_approval_ends_both_threads(started: Player) -> None:
    started.pending()
    task = started.task()
    assert task is not None
    jobs.cancel_task("default", task.id)
    assert started.ended().status == "cancelled"
    assert tasks.find_thread(started.thread).status == "idle"


def test_cancelling_while_it_trains_keeps_the_best_so_far_without_promoting_it(
    started: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = started.jobs._train

    def cancelled(spec: dict[str, Any]) -> dict[str, Any]:
        tasks.request_cancel("default", started.task().id)  # type: ignore[union-attr]  # it has begun
        return train(spec) | {"stopped": "cancelled", "steps": 7}

    monkeypatch.setattr(started.jobs, "_train", cancelled)
    started.approve()
    task = started.ended()
    assert task.status == "cancelled" and task.result is not None
    assert (task.result["promoted"], task.result["steps"]) == (False, 7)
    assert "evaluate" not in [kind for kind, _ in started.jobs.ran]
    (record,) = adapters.list_adapters("default")
    assert (record.model_id, record.aliases) == (task.result["model"], ())
    assert record.model_id in closing.closing_words(task)


def test_cancelling_after_a_trial_keeps_that(started: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = started.jobs._evaluate

    def cancelled(spec: dict[str, Any]) -> dict[str, Any]:
        if spec["split"] == "select":
            tasks.request_cancel("default", started.task().id)  # type: ignore[union-attr]  # it has begun
        return evaluate(spec)

    monkeypatch.setattr(started.jobs, "_evaluate", cancelled)
    started.approve()
    task = started.ended()
    assert task.status == "cancelled" and task.result is not None and task.result["trials"] == 1


def test_a_second_task_on_the_same_data_has_the_first_as_champion(started: Player) -> None:
    started.approve()
    first = started.ended()
    assert first.result is not None
    started.say(REQUEST + ", seed 7", train=first.train_file)
    started.approve()
    second = started.ended()
    gate = [spec for kind, spec in started.jobs.ran if kind == "gate"][-1]
    assert second.id != first.id and gate["champion"] == first.result["adapter"]


def test_a_run_that_is_advanced_again_changes_nothing(started: Player) -> None:
    started.approve()
    task = started.ended()
    before = [event.id for event in started.events("decision")]
    lifecycle_run = tasks.list_runs("default", task.thread)[-1]
    jobs.submit_run(lifecycle_run.id)
    assert [event.id for event in started.events("decision")] == before
    assert len(adapters.list_adapters("default")) == 1


def test_a_deleted_threads_words_do_not_come_back_under_its_id(player: Player) -> None:
    player.say("a secret")
    player.settled()
    tasks.delete_thread("default", player.thread)
    tasks.create_thread("default", id=player.thread, graph="conversation")
    player.say("hello again")
    assert "a secret" not in str(player.settled().values)


def test_a_report_that_cannot_be_written_undoes_nothing(started: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(report, "write_report", fail)
    started.approve()
    task = started.ended()
    assert task.status == "reached" and task.result is not None and task.result["promoted"]
    assert any(event.body["code"] == "report_failed" for event in started.events("error"))


def test_nothing_is_said_of_locked_rows_labels(started: Player) -> None:
    started.approve()
    started.ended()
    card = datasets.get_card(datasets.list_cards("default")[0])
    locked = {row.number for row in data.parse_rows(vault.open_locked(card.locked))}
    assert locked and not locked & {doubt.row for doubt in card.report.suspicious}
