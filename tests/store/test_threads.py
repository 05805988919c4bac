"""Threads and runs: the rows that are there before anything is started."""

import threading
from pathlib import Path
from typing import Any

import pytest

from moatelier.contracts import Event
from moatelier.errors import Conflict, InvalidRequest, NotFound
from store import events, tasks


def test_a_thread_begins_idle(store: Path) -> None:
    thread = tasks.create_thread("p", graph="conversation", metadata={"who": "ann"})
    assert thread.id.startswith("thread-")
    assert (thread.status, thread.task, thread.values, thread.interrupts) == ("idle", None, {}, [])
    assert tasks.get_thread("p", thread.id) == tasks.find_thread(thread.id) == thread
    assert tasks.create_thread("p", id=thread.id, graph="conversation") == thread
    with pytest.raises(Conflict):
        tasks.create_thread("other", id=thread.id, graph="conversation")
    with pytest.raises(NotFound):
        tasks.get_thread("other", thread.id)


def test_fields_are_replaced_and_metadata_is_merged(store: Path) -> None:
    tasks.create_thread("p", id="t", graph="lifecycle", metadata={"a": 1, "b": 2})
    interrupts = [{"id": "i-1", "value": {"type": "questions"}}]
    tasks.update_thread("t", status="interrupted", interrupts=interrupts, values={"x": [1]}, task="task-1")
    thread = tasks.update_thread("t", metadata={"b": 3})
    assert (thread.status, thread.interrupts, thread.values, thread.task) == (
        "interrupted",
        interrupts,
        {"x": [1]},
        "task-1",
    )
    assert tasks.find_thread("t").metadata == {"a": 1, "b": 3}
    with pytest.raises(NotFound):
        tasks.update_thread("none", status="idle")
    with pytest.raises(AssertionError):
        tasks.update_thread("t", project="other")


def test_search(store: Path) -> None:
    for number in range(4):
        metadata = {"user": f"u{number % 2}", "n": number, "vip": number == 3, "score": number / 2}
        tasks.create_thread("p", id=f"t{number}", graph="conversation", metadata=metadata)
    tasks.create_thread("other", id="x", graph="conversation", metadata={"n": "two", "vip": "yes", "score": "good"})
    tasks.update_thread("t1", status="error")

    def found(**asked: Any) -> list[str]:
        return [thread.id for thread in tasks.search_threads("p", **asked)]

    assert found() == ["t3", "t2", "t1", "t0"]
    assert found(limit=2, offset=1) == ["t2", "t1"]
    assert found(status="error") == ["t1"]
    assert found(metadata={"user": "u1"}) == ["t3", "t1"]
    assert found(metadata={"user": "u1", "vip": True}) == ["t3"]
    assert found(metadata={"n": 2}) == found(metadata={"score": 1.0}) == ["t2"]
    assert found(metadata={"missing": "x"}) == []
    assert tasks.search_threads("other", metadata={"n": 2}) == tasks.search_threads("none") == []
    assert (
        tasks.search_threads("other", metadata={"vip": True})
        == tasks.search_threads("other", metadata={"score": 1.5})
        == []
    )
    with pytest.raises(InvalidRequest, match=r"metadata\.user"):
        found(metadata={"user": ["u1"]})


def test_a_run_makes_its_thread_busy(store: Path) -> None:
    tasks.create_thread("p", id="t", graph="conversation")
    events.append([Event(project="p", stream="t", job="before", kind="message", body={})])
    run = tasks.create_run("p", id="r", thread="t", input={"messages": []})
    assert (run.status, run.input, run.command, run.last_event) == (
        "pending",
        {"messages": []},
        None,
        events.last_id("p"),
    )
    assert tasks.find_thread("t").status == "busy"
    assert tasks.get_run("p", "t", "r") == tasks.find_run("r") == run
    assert tasks.create_run("p", id="r", thread="t", input={"other": 1}) == run
    for project, thread, id in (("other", "t", "r"), ("p", "u", "r"), ("p", "t", "s")):
        with pytest.raises(NotFound):
            tasks.get_run(project, thread, id)


def test_a_run_needs_its_thread(store: Path) -> None:
    tasks.create_thread("p", id="t", graph="conversation")
    for project, thread in (("p", "none"), ("other", "t")):
        with pytest.raises(NotFound, match="thread"):
            tasks.create_run(project, thread=thread)
    assert tasks.find_thread("t").status == "idle"


def test_one_open_run_a_thread(store: Path) -> None:
    """Two inputs at once on one thread would race for its state (langgraph#5952)."""
    tasks.create_thread("p", id="t", graph="conversation")
    outcomes: list[str] = []

    def start() -> None:
        try:
            outcomes.append(tasks.create_run("p", thread="t").status)
        except Conflict:
            outcomes.append("refused")

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["pending", "refused", "refused", "refused"]
    tasks.update_run(tasks.list_runs("p", "t")[0].id, status="interrupted")
    assert tasks.create_run("p", thread="t", command={"resume": {"i": 1}}).command == {"resume": {"i": 1}}
    with pytest.raises(Conflict, match="taken"):
        tasks.create_thread("p", id="u", graph="conversation")
        tasks.create_run("p", id=tasks.list_runs("p", "t")[0].id, thread="u")


def test_a_run_ends_once(store: Path) -> None:
    tasks.create_thread("p", id="t", graph="conversation")
    tasks.create_run("p", id="r", thread="t")
    assert not tasks.update_run("r", status="running").ended
    ended = tasks.update_run("r", status="success", last_event=7)
    assert ended.ended and tasks.update_run("r", status="error", error={"code": "late"}) == ended
    with pytest.raises(NotFound):
        tasks.update_run("none", status="running")


def test_a_run_and_its_thread_end_together(store: Path) -> None:
    tasks.create_thread("p", id="t", graph="lifecycle", metadata={"a": 1})
    tasks.create_run("p", id="r", thread="t")
    interrupts = [{"id": "i", "value": {"type": "approval"}}]
    stands = {"status": "interrupted", "interrupts": interrupts, "values": {"x": 1}, "metadata": {"b": 2}}
    ended = tasks.end_run("r", status="interrupted", last_event=3, thread=stands)
    assert (ended.status, ended.last_event) == ("interrupted", 3)
    thread = tasks.find_thread("t")
    assert (thread.status, thread.interrupts, thread.values) == ("interrupted", interrupts, {"x": 1})
    assert thread.metadata == {"a": 1, "b": 2}
    tasks.create_run("p", id="next", thread="t")
    assert tasks.end_run("r", status="success", thread={"status": "idle"}) == ended  # a worker that comes late
    assert tasks.find_thread("t").status == "busy"
    with pytest.raises(NotFound):
        tasks.end_run("none", status="success", thread={})
    with pytest.raises(AssertionError):
        tasks.end_run("next", status="running", thread={})


def test_the_sweeper_sees_runs_that_were_never_started(store: Path) -> None:
    for number in range(3):
        tasks.create_thread("p", id=f"t{number}", graph="conversation")
        tasks.create_run("p", id=f"r{number}", thread=f"t{number}")
    tasks.update_run("r1", status="running")
    assert [run.id for run in tasks.unstarted_runs(0)] == ["r0", "r2"]
    assert tasks.unstarted_runs(60) == []


def test_deleting_takes_the_runs_but_not_while_one_is_open(store: Path) -> None:
    tasks.create_thread("p", id="t", graph="conversation")
    tasks.create_run("p", id="r", thread="t")
    with pytest.raises(Conflict, match="not ended"):
        tasks.delete_thread("p", "t")
    tasks.update_run("r", status="cancelled")
    with pytest.raises(NotFound):
        tasks.delete_thread("other", "t")
    tasks.delete_thread("p", "t")
    for call in (lambda: tasks.find_run("r"), lambda: tasks.find_thread("t")):
        with pytest.raises(NotFound):
            call()
    assert tasks.list_runs("p", "t") == []
