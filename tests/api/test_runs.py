"""Conversations through the unmodified langgraph-sdk."""

import io
import threading
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import SyncLangGraphClient
from langgraph_sdk.errors import BadRequestError, NotFoundError
from langgraph_sdk.schema import StreamPart

from graphs import jobs
from store import datasets, keys, tasks
from tests.api.conftest import Service
from tests.api.fake_worker import VERSION
from tests.api.running import wait_until


def say(text: str, **files: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **({"files": files} if files else {})}


def upload(text: str = "message,intent\na,b\n") -> str:
    return datasets.add_file("default", "a.csv", io.BytesIO(text.encode())).id


def kinds(parts: list[StreamPart]) -> list[str]:
    return [part.data["kind"] if part.event == "custom" else part.event for part in parts]


@pytest.fixture
def thread(langgraph: SyncLangGraphClient) -> str:
    return str(langgraph.threads.create(metadata={"team": "care"})["thread_id"])


@pytest.fixture
def approval(langgraph: SyncLangGraphClient, thread: str) -> dict[str, Any]:
    """The pending approval of a thread that was given a file."""
    langgraph.runs.wait(thread, "conversation", input=say("train at least 90 %", train=upload()))
    (interrupt,) = langgraph.threads.get_state(thread)["interrupts"]
    return dict(interrupt)


def decide(approval: dict[str, Any], kind: str, **more: Any) -> dict[str, Any]:
    decision = {"type": kind, **more}
    return {"resume": {approval["id"]: {"version": approval["value"]["version"], "decisions": [decision]}}}


def test_a_stream_is_the_event_log_between_metadata_and_end(langgraph: SyncLangGraphClient, thread: str) -> None:
    created: list[Any] = []
    parts = list(
        langgraph.runs.stream(
            thread, "conversation", input=say("make it better"), stream_resumable=True, on_run_created=created.append
        )
    )
    assert kinds(parts) == ["metadata", "message", "question", "run", "values", "end"]
    assert created[0]["run_id"] == parts[0].data["run_id"] and created[0]["thread_id"] == thread
    ids = [int(part.id or 0) for part in parts[:4]]
    assert ids == sorted(ids)
    question = parts[2].data["body"]
    assert question["questions"][0]["text"] == "How good is good enough?"
    (interrupt,) = parts[4].data["__interrupt__"]
    assert interrupt["value"]["type"] == "questions"
    assert parts[5].data["status"] == "interrupted"


def test_a_question_is_answered_on_the_same_thread(langgraph: SyncLangGraphClient, thread: str) -> None:
    asked = langgraph.runs.wait(thread, "conversation", input=say("make it better"))
    (interrupt,) = asked["__interrupt__"]
    assert langgraph.threads.get(thread)["status"] == "interrupted"
    answered = langgraph.runs.wait(thread, "conversation", command={"resume": {interrupt["id"]: "at least 90 %"}})
    assert answered["__interrupt__"][0]["value"]["type"] == "approval"
    first, second = reversed(langgraph.runs.list(thread))
    assert (first["status"], second["status"]) == ("interrupted", "interrupted")


def test_approve_ends_in_a_result(langgraph: SyncLangGraphClient, thread: str, approval: dict[str, Any]) -> None:
    assert approval["value"]["version"] == VERSION
    parts = list(langgraph.runs.stream(thread, "conversation", command=decide(approval, "approve")))
    assert kinds(parts) == ["metadata", *["progress"] * 5, "result", "run", "values", "end"]
    assert [part.data["step"] for part in parts[1:6]] == [1, 2, 3, 4, 5]
    assert parts[-2].data == {"outcome": "reached"}
    thread_now = langgraph.threads.get(thread)
    assert thread_now["status"] == "idle" and thread_now["interrupts"] == {}


def test_edit_shows_a_new_version_and_the_old_one_is_stale(
    langgraph: SyncLangGraphClient, thread: str, approval: dict[str, Any]
) -> None:
    edit = {"name": "train", "args": {"goal": 0.8}}
    edited = langgraph.runs.wait(thread, "conversation", command=decide(approval, "edit", edited_action=edit))
    (fresh,) = edited["__interrupt__"]
    assert fresh["value"]["plan"] == {"goal": 0.8} and fresh["id"] != approval["id"]
    with pytest.raises(BadRequestError, match="does not wait for an answer"):
        langgraph.runs.create(thread, "conversation", command=decide(approval, "approve"))
    stale = {"resume": {fresh["id"]: {"version": VERSION, "decisions": [{"type": "approve"}]}}}
    with pytest.raises(BadRequestError, match="plan has changed") as caught:
        langgraph.runs.create(thread, "conversation", command=stale)
    assert caught.value.body["error"]["code"] == "conflict"  # type: ignore[index,call-overload]
    rejected = langgraph.runs.wait(thread, "conversation", command=decide(fresh, "reject", message="no"))
    assert rejected == {"outcome": "rejected"}


def test_plain_words_answer_an_approval(langgraph: SyncLangGraphClient, thread: str, approval: dict[str, Any]) -> None:
    again = langgraph.runs.wait(thread, "conversation", command={"resume": {approval["id"]: "in ten minutes"}})
    assert again["__interrupt__"][0]["value"]["type"] == "approval"


def test_the_same_approval_twice_at_once_counts_once(service: Service, thread: str, approval: dict[str, Any]) -> None:
    answers: list[int] = []
    body = {"assistant_id": "conversation", "command": decide(approval, "approve")}

    def click() -> None:
        answers.append(
            httpx.post(f"{service.url}/threads/{thread}/runs", json=body, headers=service.headers).status_code
        )

    clicks = [threading.Thread(target=click) for _ in range(6)]
    for one in clicks:
        one.start()
    for one in clicks:
        one.join()
    # A second click may find its own run written already, which is the same answer again; never a second run.
    assert set(answers) <= {200, 400} and 200 in answers
    assert len(tasks.list_runs("default", thread)) == 2


def test_an_answer_that_does_not_fit_changes_nothing(
    langgraph: SyncLangGraphClient, thread: str, approval: dict[str, Any]
) -> None:
    approve, reject = {"type": "approve"}, {"type": "reject"}
    unfit: list[tuple[Any, str]] = [
        ({"decisions": [approve]}, "has changed"),
        ({"version": VERSION}, "exactly one decision"),
        ({"version": VERSION, "decisions": []}, "exactly one decision"),
        ({"version": VERSION, "decisions": [approve, reject]}, "exactly one decision"),
        ({"version": VERSION, "decisions": [{"type": "respond"}]}, "not possible"),
        ({"version": VERSION, "decisions": [{"type": "edit"}]}, "fields to change"),
        (True, "exactly one decision"),
    ]
    for answer, message in unfit:
        with pytest.raises(BadRequestError, match=message):
            langgraph.runs.create(thread, "conversation", command={"resume": {approval["id"]: answer}})
    assert langgraph.threads.get(thread)["status"] == "interrupted"
    assert len(langgraph.runs.list(thread)) == 1


def test_bad_runs(langgraph: SyncLangGraphClient, thread: str, http: httpx.Client) -> None:
    for body, message in [
        ({}, "either `input` or `command`"),
        ({"input": say("x"), "command": {"resume": {"a": 1}}}, "either `input` or `command`"),
        ({"input": {}}, "no messages"),
        ({"input": {"messages": [{"role": "robot", "content": "x"}]}}, "known role"),
        ({"input": {"messages": [{"role": "user", "content": " "}]}}, "known role"),
        ({"input": {"messages": ["x"]}}, "is an object"),
        ({"input": say("x", trian="file-1")}, "takes `train` and `test`"),
        ({"input": say("x") | {"files": {"train": 3}}}, "named by its id"),
        ({"command": {"goto": "train"}}, "exactly one interrupt"),
        ({"command": {"resume": "yes"}}, "exactly one interrupt"),
        ({"command": {"resume": {"nothing": "yes"}}}, "does not wait"),
    ]:
        answer = http.post(f"/threads/{thread}/runs", json={"assistant_id": "conversation", **body})
        assert answer.status_code == 400, body
        assert message in answer.json()["error"]["message"], body
    with pytest.raises(NotFoundError, match="no assistant"):
        langgraph.runs.create(thread, "somebody", input=say("x"))
    with pytest.raises(NotFoundError, match="no such file"):
        langgraph.runs.create(thread, "conversation", input=say("x", train="file-none"))
    with pytest.raises(NotFoundError, match="no such thread"):
        langgraph.runs.create("nowhere", "conversation", input=say("x"))
    assert langgraph.runs.list(thread) == []
    assert langgraph.threads.get(thread)["status"] == "idle"


def test_messages_come_in_several_shapes(langgraph: SyncLangGraphClient, service: Service) -> None:
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": "there"}]
    run = langgraph.runs.create(
        "thread-new",
        "moatelier",
        input={"messages": [{"type": "human", "content": parts}]},
        if_not_exists="create",
    )
    assert tasks.find_run(run["run_id"]).input == {
        "messages": [{"role": "user", "content": "hello\nthere"}],
        "files": {},
    }
    langgraph.runs.join("thread-new", run["run_id"])
    assert service.worker.submitted == [run["run_id"]]


def test_a_run_is_joined_while_it_goes_and_after(langgraph: SyncLangGraphClient, thread: str, service: Service) -> None:
    run = langgraph.runs.create(thread, "conversation", input=say("hang"))["run_id"]
    with pytest.raises(BadRequestError, match="busy"):
        langgraph.runs.create(thread, "conversation", input=say("more"))
    with pytest.raises(BadRequestError, match="busy"):
        langgraph.threads.delete(thread)
    joined: list[Any] = []
    watcher = threading.Thread(target=lambda: joined.extend(langgraph.runs.join_stream(thread, run)))
    watcher.start()
    wait_until(lambda: langgraph.runs.get(thread, run)["status"] == "running")
    langgraph.runs.cancel(thread, run, wait=True)
    watcher.join(10)
    assert kinds(joined) == ["metadata", "message", "run", "values", "end"]
    assert kinds(list(langgraph.runs.join_stream(thread, run))) == kinds(joined)
    assert "messages" in langgraph.runs.join(thread, run)
    with pytest.raises(BadRequestError, match="has ended"):
        langgraph.runs.cancel(thread, run)


def test_each_run_shows_its_own_events_only(langgraph: SyncLangGraphClient, thread: str) -> None:
    first = langgraph.runs.create(thread, "conversation", input=say("hello"))["run_id"]
    langgraph.runs.join(thread, first)
    second = list(langgraph.runs.stream(thread, "conversation", input=say("again")))
    assert second[1].data["body"]["content"] == "again"
    replay = list(langgraph.runs.join_stream(thread, first))
    assert [part.data["job"] for part in replay if part.event == "custom"] == [first] * 3
    assert kinds(replay) == ["metadata", "message", "message", "run", "values", "end"]


def test_a_client_that_comes_back_misses_nothing(langgraph: SyncLangGraphClient, thread: str) -> None:
    parts = list(langgraph.runs.stream(thread, "conversation", input=say("hello")))
    for seen in parts[:4]:
        rest = list(langgraph.runs.join_stream(thread, parts[0].data["run_id"], last_event_id=seen.id))
        assert kinds(rest)[1:] == kinds(parts)[parts.index(seen) + 1 :]
    with pytest.raises(BadRequestError, match="Last-Event-ID"):
        list(langgraph.runs.join_stream(thread, parts[0].data["run_id"], last_event_id="yesterday"))


def test_the_sdk_reconnects_by_itself_when_the_connection_is_cut(
    service: Service, langgraph: SyncLangGraphClient, thread: str, approval: dict[str, Any]
) -> None:
    """The headers lead back to the run's own stream with the id last seen."""
    service.worker.step_s = 0.1
    body = {"assistant_id": "conversation", "command": decide(approval, "approve")}
    url = f"{service.url}/threads/{thread}/runs/stream"
    with httpx.stream("POST", url, json=body, headers=service.headers) as answer:
        place = answer.headers["location"]
        last = next(line for line in answer.iter_lines() if line.startswith("id:")).removeprefix("id:").strip()
    run = place.split("/")[4]
    assert place == f"/threads/{thread}/runs/{run}/stream"
    assert answer.headers["content-location"] == f"/threads/{thread}/runs/{run}"
    rest = list(langgraph.runs.join_stream(thread, run, last_event_id=last))
    assert kinds(rest) == ["metadata", *["progress"] * 5, "result", "run", "values", "end"]


def test_a_failed_run_says_why(langgraph: SyncLangGraphClient, thread: str) -> None:
    parts = list(langgraph.runs.stream(thread, "conversation", input=say("explode")))
    assert kinds(parts) == ["metadata", "message", "run", "error", "end"]
    assert parts[3].data["error"] == "data_error" and "Row 3" in parts[3].data["message"]
    with pytest.raises(Exception, match="data_error: Row 3 is broken"):
        langgraph.runs.wait(thread, "conversation", input=say("explode"))
    assert langgraph.threads.get(thread)["status"] == "error"
    assert langgraph.runs.list(thread, status="error", limit=1)[0]["status"] == "error"
    assert langgraph.runs.list(thread, status="success") == []


def test_a_queue_out_of_reach_loses_nothing(
    langgraph: SyncLangGraphClient, thread: str, monkeypatch: pytest.MonkeyPatch, service: Service
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(jobs, "submit_run", lambda _: 1 / 0)
        run = langgraph.runs.create(thread, "conversation", input=say("hello"))["run_id"]
    assert [found.id for found in tasks.unstarted_runs(older_than_s=0)] == [run]
    service.worker.submit_run(run)  # as the sweeper will
    langgraph.runs.join(thread, run)


def test_a_long_wait_is_kept_alive(
    langgraph: SyncLangGraphClient, thread: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.threads.following.HEARTBEAT_S", 0.2)
    run = langgraph.runs.create(thread, "conversation", input=say("hang"))["run_id"]
    raw: list[bytes] = []
    url = f"{service.url}/threads/{thread}/runs/{run}/join"
    with httpx.stream("GET", url, headers=service.headers, timeout=20) as answer:
        for number, chunk in enumerate(answer.iter_raw()):
            raw.append(chunk)
            if number == 1:
                langgraph.runs.cancel(thread, run)
    assert raw[:2] == [b"\n", b"\n"]
    assert b"".join(raw).lstrip().startswith(b'{"messages"')


def test_threads_are_found_changed_and_deleted(langgraph: SyncLangGraphClient, thread: str, service: Service) -> None:
    other = langgraph.threads.create(thread_id="thread-b", metadata={"team": "sales"})["thread_id"]
    assert [found["thread_id"] for found in langgraph.threads.search()] == [other, thread]
    assert [found["thread_id"] for found in langgraph.threads.search(metadata={"team": "care"})] == [thread]
    assert langgraph.threads.search(status="busy") == []
    assert langgraph.threads.search(limit=1, offset=1)[0]["thread_id"] == thread
    assert langgraph.threads.update(thread, metadata={"note": 1})["metadata"] == {
        "team": "care",
        "note": 1,
        "graph_id": "conversation",
    }
    assert langgraph.threads.update(thread, metadata={}, return_minimal=True) is None
    with pytest.raises(BadRequestError, match="already"):
        langgraph.threads.create(thread_id=other)
    assert langgraph.threads.create(thread_id=other, if_exists="do_nothing")["metadata"]["team"] == "sales"
    with pytest.raises(BadRequestError, match="thread id"):
        langgraph.threads.create(thread_id="a/b")
    state = langgraph.threads.get_state(thread)
    assert state["next"] == [] and state["checkpoint"]["thread_id"] == thread
    langgraph.threads.delete(other)
    with pytest.raises(NotFoundError):
        langgraph.threads.get(other)


def test_a_tasks_own_thread_and_other_projects_are_out_of_sight(
    langgraph: SyncLangGraphClient, thread: str, service: Service
) -> None:
    tasks.create_thread("default", id="inner", graph="lifecycle", task="task-1")
    with pytest.raises(NotFoundError):
        langgraph.threads.get("inner")
    assert [found["thread_id"] for found in langgraph.threads.search()] == [thread]
    headers = {"x-api-key": keys.create("other", "test")}
    for path in (f"/threads/{thread}", f"/threads/{thread}/state", f"/threads/{thread}/runs"):
        assert httpx.get(service.url + path, headers=headers).status_code == 404
    assert httpx.post(f"{service.url}/threads/search", json={}, headers=headers).json() == []
