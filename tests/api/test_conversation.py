"""What langgraph-sdk asks besides runs that are started and followed: states, copies, crons, runs without a thread."""

import threading
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import SyncLangGraphClient
from langgraph_sdk.errors import BadRequestError, NotFoundError

from api.routes.threads import assistants
from graphs.conversation import first_input
from store import tasks
from tests.api.conftest import Service
from tests.api.running import wait_until
from tests.api.test_runs import decide, kinds, say, upload
from tests.api.test_runs import thread as thread


def test_history_is_a_state_for_each_run(langgraph: SyncLangGraphClient, thread: str) -> None:
    assert langgraph.threads.get_history(thread) == []
    assert langgraph.threads.get_state(thread)["checkpoint"]["checkpoint_id"] is None
    asked = langgraph.runs.wait(thread, "conversation", input=say("make it better"), metadata={"turn": 1})
    (interrupt,) = asked["__interrupt__"]
    again = langgraph.runs.wait(thread, "conversation", command={"resume": {interrupt["id"]: "90 %"}})
    langgraph.runs.wait(thread, "conversation", command=decide(again["__interrupt__"][0], "approve"))
    newest, middle, oldest = langgraph.threads.get_history(thread)
    runs = [run["run_id"] for run in langgraph.runs.list(thread)]
    assert [state["checkpoint"]["checkpoint_id"] for state in (newest, middle, oldest)] == runs
    assert newest["values"] == {"outcome": "reached"} and newest["next"] == []
    assert oldest["interrupts"] == [interrupt] and oldest["next"] == ["ask"] and oldest["parent_checkpoint"] is None
    assert newest["parent_checkpoint"] == middle["checkpoint"]
    assert langgraph.threads.get_history(thread, metadata={"turn": 1}) == [oldest]
    assert langgraph.threads.get_history(thread, before=middle["checkpoint"]) == [oldest]
    assert langgraph.threads.get_history(thread, limit=1, before=runs[0]) == [middle]
    assert langgraph.threads.get_state(thread)["checkpoint"] == newest["checkpoint"]
    assert langgraph.threads.get_state(thread, checkpoint=middle["checkpoint"]) == middle
    assert langgraph.threads.get_state(thread, checkpoint_id=runs[2]) == oldest
    assert langgraph.threads.get_state(thread, select=["next", "values.outcome"]) == {
        "next": [],
        "values": {"outcome": "reached"},
    }
    for unknown in ("run-none", "checkpoint"):
        with pytest.raises(NotFoundError, match="no such state"):
            langgraph.threads.get_state(thread, checkpoint_id=unknown)


def test_a_state_is_not_set(langgraph: SyncLangGraphClient, thread: str) -> None:
    with pytest.raises(BadRequestError, match="cannot be set"):
        langgraph.threads.update_state(thread, {"messages": []})
    with pytest.raises(NotFoundError):
        langgraph.threads.update_state("nowhere", {"messages": []})


def test_a_copy_knows_what_was_said_and_has_no_task(langgraph: SyncLangGraphClient, thread: str) -> None:
    langgraph.runs.wait(thread, "conversation", input=say("hello"))
    values = {"messages": [{"role": "user", "content": "hello"}], "files": {"train": "file-1"}, "task": "task-1"}
    tasks.update_thread(thread, values=values, task="task-1")
    copied: Any = langgraph.threads.copy(thread)
    assert copied["thread_id"] != thread and copied["metadata"]["team"] == "care"
    assert (copied["task"], copied["status"]) == (None, "idle")
    assert copied["values"] == {"messages": values["messages"], "files": values["files"]}
    run = tasks.create_run("default", thread=copied["thread_id"], input=say("go on"))
    state = first_input(run, tasks.find_thread(copied["thread_id"]))
    assert [message["content"] for message in state["messages"]] == ["hello", "go on"]
    assert (state["taken"], state["files"], state["fresh_files"]) == (1, {"train": "file-1"}, False)


def test_threads_are_counted_sorted_and_pruned(langgraph: SyncLangGraphClient, thread: str) -> None:
    others = [langgraph.threads.create(thread_id=f"thread-{name}")["thread_id"] for name in "ba"]
    assert langgraph.threads.count() == 3 and langgraph.threads.count(metadata={"team": "care"}) == 1
    by_id = langgraph.threads.search(sort_by="thread_id", sort_order="asc", select=["thread_id"])
    assert by_id == [{"thread_id": id} for id in sorted([*others, thread])]
    assert [found["thread_id"] for found in langgraph.threads.search(ids=["thread-a", "nowhere"])] == ["thread-a"]
    langgraph.runs.wait(thread, "conversation", input=say("hello"))
    tasks.update_thread(thread, values={"outcome": "reached"})
    assert [found["thread_id"] for found in langgraph.threads.search(values={"outcome": "reached"})] == [thread]
    assert langgraph.threads.count(values={"outcome": "x"}, status="idle") == 0
    with pytest.raises(NotFoundError):
        langgraph.threads.prune(["thread-a", "nowhere"])
    langgraph.runs.wait(thread, "conversation", input=say("again"))
    assert langgraph.threads.prune([thread], strategy="keep_latest") == {"pruned_count": 1}
    assert len(langgraph.threads.get_history(thread)) == 1
    assert langgraph.threads.prune(others) == {"pruned_count": 2}
    assert langgraph.threads.count() == 1


def test_what_a_thread_cannot_be_told(langgraph: SyncLangGraphClient, http: httpx.Client, thread: str) -> None:
    for refused in (
        {"ttl": 5},
        {"supersteps": [{"updates": []}]},
        {"metadata": {"graph_id": "somebody"}},
        {"metadata": "x"},
    ):
        assert http.post("/threads", json=refused).status_code in (400, 404), refused
    for refused in ({"sort_by": "size"}, {"sort_order": "up"}, {"ids": "x"}, {"values": 3}, {"status": "gone"}):
        assert http.post("/threads/search", json=refused).status_code == 400, refused
    with pytest.raises(BadRequestError, match="cannot"):
        langgraph.threads.search(sort_by="size")  # type: ignore[arg-type]
    assert langgraph.threads.count() == 1


def test_a_deleted_run_is_out_of_sight_and_its_words_are_gone(langgraph: SyncLangGraphClient, thread: str) -> None:
    first = langgraph.runs.create(thread, "conversation", input=say("secret"))["run_id"]
    langgraph.runs.join(thread, first)
    langgraph.runs.delete(thread, first)
    with pytest.raises(NotFoundError):
        langgraph.runs.get(thread, first)
    with pytest.raises(NotFoundError):
        langgraph.runs.delete(thread, first)
    assert langgraph.runs.list(thread) == [] and langgraph.threads.get_history(thread) == []
    assert tasks.find_run(first).input is None
    later = list(langgraph.runs.stream(thread, "conversation", input=say("hello")))
    assert later[1].data["body"]["content"] == "hello", "the next run's events do not begin with the deleted one's"
    going = langgraph.runs.create(thread, "conversation", input=say("hang"))["run_id"]
    with pytest.raises(BadRequestError, match="not ended"):
        langgraph.runs.delete(thread, going)
    langgraph.runs.cancel(thread, going, wait=True)


def test_runs_without_a_thread(langgraph: SyncLangGraphClient, service: Service) -> None:
    made: list[Any] = []
    values = langgraph.runs.wait(None, "conversation", input=say("hello"), on_run_created=made.append)
    assert "messages" in values
    parts = list(langgraph.runs.stream(None, "conversation", input=say("make it better"), metadata={"a": 1}))
    assert kinds(parts) == ["metadata", "message", "question", "run", "values", "end"]
    run = langgraph.runs.create(None, "conversation", input=say("hello"), on_completion="keep")
    langgraph.runs.join(run["thread_id"], run["run_id"])
    assert tasks.find_thread(made[0]["thread_id"]).stateless and not tasks.find_thread(run["thread_id"]).stateless
    thread = parts[0].data["thread_id"]
    assert langgraph.threads.get(thread)["metadata"]["a"] == 1
    before = langgraph.threads.count()
    for refused in ({"command": {"resume": {"x": 1}}}, {}, {"input": {}}, {"input": say("x"), "webhook": "http://x"}):
        with pytest.raises(BadRequestError):
            langgraph.runs.create(None, "conversation", **refused)  # type: ignore[arg-type]
    assert langgraph.threads.count() == before, "nothing is left of a run that was refused"


def test_several_runs_at_once(langgraph: SyncLangGraphClient, http: httpx.Client, thread: str) -> None:
    wanted: list[Any] = [
        {"assistant_id": "conversation", "thread_id": thread, "input": say("hello")},
        {"assistant_id": "conversation", "input": say("hello")},
    ]
    first, second = langgraph.runs.create_batch(wanted)
    assert first["thread_id"] == thread != second["thread_id"]
    for run in (first, second):
        langgraph.runs.join(run["thread_id"], run["run_id"])
    for body in ({}, ["x"], [{"input": say("x")}] * 101):
        assert http.post("/runs/batch", json=body).status_code == 400


def test_many_are_cancelled(langgraph: SyncLangGraphClient, service: Service, http: httpx.Client) -> None:
    runs = [langgraph.runs.create(None, "conversation", input=say("hang")) for _ in range(3)]
    wait_until(lambda: all(tasks.find_run(run["run_id"]).status == "running" for run in runs))
    langgraph.runs.cancel_many(run_ids=[runs[0]["run_id"]])
    langgraph.runs.join(runs[0]["thread_id"], runs[0]["run_id"])
    langgraph.runs.cancel_many(thread_id=runs[1]["thread_id"], status="pending")
    assert service.worker.cancelled == {runs[0]["thread_id"]}
    langgraph.runs.cancel_many(status="all")
    for run in runs:
        langgraph.runs.join(run["thread_id"], run["run_id"])
    for body in ({}, {"run_ids": ["x"], "status": "all"}, {"status": "some"}, {"run_ids": "x"}):
        assert http.post("/runs/cancel", json=body).status_code == 400
    with pytest.raises(BadRequestError, match="not taken back"):
        langgraph.runs.cancel_many(status="all", action="rollback")


def test_a_thread_is_followed_run_by_run(langgraph: SyncLangGraphClient, thread: str) -> None:
    langgraph.runs.wait(thread, "conversation", input=say("before"))
    heard: list[Any] = []
    ready = threading.Event()

    def listen() -> None:
        for part in langgraph.threads.join_stream(thread):
            heard.append(part)
            ready.set()

    listener = threading.Thread(target=listen)
    listener.start()
    assert ready.wait(10)
    for text in ("one", "two"):
        langgraph.runs.wait(thread, "conversation", input=say(text))
    wait_until(lambda: len(heard) == 7)
    assert [part.data["body"].get("content") for part in heard[1:] if part.data["kind"] == "message"][::2] == [
        "one",
        "two",
    ]
    cut = heard[3].id
    langgraph.threads.delete(thread)
    listener.join(10)
    assert not listener.is_alive(), "the stream ends with its thread"
    assert cut is not None
    with pytest.raises(BadRequestError, match="run by run"):
        other = langgraph.threads.create()["thread_id"]
        next(iter(langgraph.threads.join_stream(other, stream_mode="state_update")))


def test_the_one_assistant(langgraph: SyncLangGraphClient) -> None:
    (found,) = langgraph.assistants.search(graph_id="conversation")
    assert langgraph.assistants.get("moatelier") == found
    assert langgraph.assistants.search(name="somebody") == [] and langgraph.assistants.count(metadata={"a": 1}) == 0
    graph = langgraph.assistants.get_graph("conversation")
    assert {"listen", "follow", "ask"} <= {node["id"] for node in graph["nodes"]}
    schemas = langgraph.assistants.get_schemas("conversation")
    assert "messages" in schemas["input_schema"]["properties"]  # type: ignore[index]
    assert {"messages", "task", "files"} <= set(schemas["state_schema"]["properties"])  # type: ignore[index]
    assert set(assistants.INPUT["properties"]) == {"messages", "files"}
    with pytest.raises(NotFoundError):
        langgraph.assistants.get("somebody")
    with pytest.raises(BadRequestError, match="one assistant"):
        langgraph.assistants.create("conversation", name="mine")


def test_crons_over_http(langgraph: SyncLangGraphClient, http: httpx.Client, thread: str) -> None:
    alone: Any = langgraph.crons.create("conversation", schedule="0 3 * * 1", input=say("again"), metadata={"a": 1})
    bound: Any = langgraph.crons.create_for_thread(
        thread, "conversation", schedule="0 3 * * *", input=say("again"), timezone="Europe/Berlin"
    )
    assert alone["thread_id"] is None and bound["thread_id"] == thread and bound["next_run_date"]
    assert [cron["cron_id"] for cron in langgraph.crons.search(metadata={"a": 1})] == [alone["cron_id"]]
    assert langgraph.crons.search(thread_id=thread)[0]["timezone"] == "Europe/Berlin"
    assert langgraph.crons.search(assistant_id="somebody") == [] and langgraph.crons.count() == 2
    changed = langgraph.crons.update(alone["cron_id"], enabled=False, input=say("other"))
    assert (changed["enabled"], changed["next_run_date"]) == (False, None)
    assert langgraph.crons.search(enabled=True, select=["cron_id"]) == [{"cron_id": bound["cron_id"]}]
    langgraph.crons.delete(alone["cron_id"])
    with pytest.raises(NotFoundError):
        langgraph.crons.delete(alone["cron_id"])
    for body in (
        {"input": say("x")},
        {"schedule": "0 0 * * *"},
        {"schedule": "often", "input": say("x")},
        {"schedule": "0 0 * * *", "input": say("x"), "end_time": "soon"},
        {"schedule": "0 0 * * *", "input": say("x"), "timezone": 3},
        {"schedule": "0 0 * * *", "input": say("x"), "enabled": "yes"},
        {"schedule": "0 0 * * *", "input": say("x"), "on_run_completed": "maybe"},
    ):
        assert http.post("/runs/crons", json=body).status_code == 400, body
    assert (
        http.post("/runs/crons", json={"schedule": "0 0 * * *", "input": say("x", train="file-none")}).status_code
        == 404
    )
    with pytest.raises(NotFoundError):
        langgraph.crons.create_for_thread("nowhere", "conversation", schedule="0 0 * * *", input=say("x"))
    assert langgraph.crons.create("conversation", schedule="0 0 * * *", input=say("x", train=upload()))


def test_items_are_refused(langgraph: SyncLangGraphClient) -> None:
    with pytest.raises(BadRequestError, match="keeps no items"):
        langgraph.store.put_item(("notes",), "a", {"b": 1})
