"""The conversation by langgraph-sdk, every method, synchronously and asynchronously; streams cut and resumed."""

import asyncio
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient
from langgraph_sdk.errors import BadRequestError, NotFoundError

from store import tasks
from tests.api.running import wait_until
from tests.api.test_runs import decide, kinds, say, upload
from tests.conformance.answering import Talking
from tests.conformance.cutting import cutting

HOURLY: dict[str, Any] = {"schedule": "0 * * * *", "input": say("again")}


def test_threads(talking: Talking) -> None:
    threads = talking.client.threads
    thread = threads.create(metadata={"team": "care"})["thread_id"]
    assert threads.create(thread_id=thread, if_exists="do_nothing")["thread_id"] == thread
    assert threads.get(thread)["status"] == "idle"
    assert (threads.update(thread, metadata={"a": 1}) or {})["metadata"]["a"] == 1
    assert threads.count() == 1 and threads.search(metadata={"team": "care"})[0]["thread_id"] == thread
    run = talking.client.runs.create(thread, "conversation", input=say("hello"))["run_id"]
    talking.client.runs.join(thread, run)
    state = threads.get_state(thread)
    assert state["checkpoint"]["checkpoint_id"] == run
    assert threads.get_state(thread, checkpoint_id=run)["values"] == state["values"]
    assert threads.get_state(thread, checkpoint=state["checkpoint"])["values"] == state["values"]
    assert [each["checkpoint"] for each in threads.get_history(thread)] == [state["checkpoint"]]
    with pytest.raises(BadRequestError, match="cannot be set"):
        threads.update_state(thread, {"messages": []})
    copied: Any = threads.copy(thread)
    assert threads.prune([copied["thread_id"]]) == {"pruned_count": 1}
    part = next(iter(threads.join_stream(thread, last_event_id="0")))
    assert part.event == "metadata"
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        with threads.stream(thread, assistant_id="conversation") as live:
            live.run.start(input=say("hello"))
    threads.delete(thread)
    with pytest.raises(NotFoundError):
        threads.get(thread)


def test_runs(talking: Talking) -> None:
    runs, thread = talking.client.runs, talking.client.threads.create()["thread_id"]
    parts = list(runs.stream(thread, "conversation", input=say("make it better"), stream_resumable=True))
    assert kinds(parts) == ["metadata", "message", "question", "run", "values", "end"]
    run = parts[0].data["run_id"]
    assert kinds(list(runs.join_stream(thread, run)))[-1] == "end"
    (interrupt,) = parts[4].data["__interrupt__"]
    values: Any = runs.wait(thread, "conversation", command={"resume": {interrupt["id"]: "90 %"}})
    approval = values["__interrupt__"][0]
    assert runs.wait(thread, "conversation", command=decide(approval, "approve")) == {"outcome": "reached"}
    assert runs.get(thread, run)["status"] == "interrupted" and len(runs.list(thread)) == 3
    runs.delete(thread, run)
    hung = runs.create(thread, "conversation", input=say("hang"))["run_id"]
    assert runs.cancel(thread, hung, wait=True) is not None
    wanted: Any = [{"assistant_id": "conversation", "input": say("hang")}]
    (batch,) = runs.create_batch(wanted)
    wait_until(lambda: runs.get(batch["thread_id"], batch["run_id"])["status"] == "running")
    runs.cancel_many(run_ids=[batch["run_id"]])
    runs.join(batch["thread_id"], batch["run_id"])
    assert "messages" in runs.wait(None, "conversation", input=say("hello"))


def test_assistants_crons_and_items(talking: Talking) -> None:
    client = talking.client
    (known,) = client.assistants.search()
    name = known["assistant_id"]
    assert client.assistants.search(response_format="object")["assistants"] == [known]
    assert client.assistants.get(name) == known and client.assistants.count() == 1
    assert client.assistants.get_graph(name)["nodes"] and client.assistants.get_subgraphs(name) == {}
    assert client.assistants.get_schemas(name)["graph_id"] == name
    assert client.assistants.get_versions(name)[0]["version"] == client.assistants.set_latest(name, 1)["version"]
    for call in (
        lambda: client.assistants.create(name),
        lambda: client.assistants.update(name, name="x"),
        lambda: client.assistants.delete(name),
        lambda: client.store.put_item(["a"], "b", {"c": 1}),
        lambda: client.store.get_item(["a"], "b"),
        lambda: client.store.delete_item(["a"], "b"),
        lambda: client.store.search_items(["a"]),
        lambda: client.store.list_namespaces(),
    ):
        with pytest.raises(BadRequestError):
            call()  # type: ignore[no-untyped-call]
    thread = client.threads.create()["thread_id"]
    made: Any = client.crons.create(name, **HOURLY)
    client.crons.create_for_thread(thread, name, **HOURLY)
    assert client.crons.count() == 2 and client.crons.search(thread_id=thread)[0]["thread_id"] == thread
    assert client.crons.update(made["cron_id"], enabled=False)["next_run_date"] is None
    client.crons.delete(made["cron_id"])
    assert client.crons.count() == 1


def test_asynchronously(talking: Talking) -> None:
    async def talk() -> None:
        async with talking.asynchronous() as client:
            thread = (await client.threads.create())["thread_id"]
            parts = [part async for part in client.runs.stream(thread, "conversation", input=say("make it better"))]
            assert kinds(parts) == ["metadata", "message", "question", "run", "values", "end"]
            run = parts[0].data["run_id"]
            (interrupt,) = parts[4].data["__interrupt__"]
            await client.runs.wait(thread, "conversation", command={"resume": {interrupt["id"]: "90 %"}})
            assert [part async for part in client.runs.join_stream(thread, run)]
            assert await client.runs.join(thread, run) and await client.runs.get(thread, run)
            assert len(await client.runs.list(thread)) == 2
            await client.runs.delete(thread, run)
            hung = (await client.runs.create(None, "conversation", input=say("hang")))["thread_id"]
            wanted: Any = [{"assistant_id": "conversation", "input": say("hang")}]
            (batch,) = await client.runs.create_batch(wanted)
            await client.runs.cancel_many(run_ids=[batch["run_id"]])
            (one,) = await client.runs.list(hung)
            await client.runs.cancel(hung, one["run_id"], wait=True)
            await client.runs.join(batch["thread_id"], batch["run_id"])
            await _threads(client, thread)
            await _others(client, thread)

    asyncio.run(talk())


async def _threads(client: Any, thread: str) -> None:
    threads = client.threads
    assert await threads.get(thread) and await threads.search() and await threads.count()
    await threads.update(thread, metadata={"a": 1})
    state = await threads.get_state(thread)
    assert (await threads.get_history(thread))[0]["checkpoint"] == state["checkpoint"]
    with pytest.raises(BadRequestError):
        await threads.update_state(thread, {})
    copied = (await threads.copy(thread))["thread_id"]
    assert await threads.prune([copied]) == {"pruned_count": 1}
    async with aclosing(await threads.join_stream(thread)) as live:
        assert (await anext(live)).event == "metadata"
    other = (await threads.create())["thread_id"]
    await threads.delete(other)


async def _others(client: Any, thread: str) -> None:
    (known,) = await client.assistants.search()
    name = known["assistant_id"]
    assert await client.assistants.get(name) and await client.assistants.count()
    assert await client.assistants.get_graph(name) and await client.assistants.get_schemas(name)
    assert await client.assistants.get_subgraphs(name) == {} and await client.assistants.get_versions(name)
    await client.assistants.set_latest(name, 1)
    for call in (
        client.assistants.create(name),
        client.assistants.update(name, name="x"),
        client.assistants.delete(name),
        client.store.put_item(["a"], "b", {"c": 1}),
        client.store.get_item(["a"], "b"),
        client.store.delete_item(["a"], "b"),
        client.store.search_items(["a"]),
        client.store.list_namespaces(),
    ):
        with pytest.raises(BadRequestError):
            await call
    made = await client.crons.create(name, **HOURLY)
    await client.crons.create_for_thread(thread, name, **HOURLY)
    assert await client.crons.count() == 2 and await client.crons.search()
    await client.crons.update(made["cron_id"], enabled=False)
    await client.crons.delete(made["cron_id"])


def approved(client: SyncLangGraphClient) -> tuple[str, dict[str, Any]]:
    """A thread that waits for its approval, and the command that gives it."""
    thread = client.threads.create()["thread_id"]
    client.runs.wait(thread, "conversation", input=say("train at least 90 %", train=upload()))
    (interrupt,) = client.threads.get_state(thread)["interrupts"]
    return thread, decide(dict(interrupt), "approve")


@pytest.mark.parametrize("after", [200, 350, 500])
def test_a_stream_that_is_cut_goes_on_where_it_was(talking: Talking, after: int) -> None:
    """By the client itself: it comes back to `Location` with the id it saw last, and nothing is lost or told twice."""
    thread, command = approved(talking.client)
    with cutting(talking.url, b"/stream", after=after, cuts=2) as relay:
        with get_sync_client(url=relay.url, api_key=talking.key) as client:
            parts = list(client.runs.stream(thread, "conversation", command=command, stream_resumable=True))
    told = [kind for kind in kinds(parts) if kind != "metadata"]
    assert told == [*["progress"] * 5, "result", "run", "values", "end"]
    ids = [int(part.id or 0) for part in parts if part.event == "custom"]
    assert ids == sorted(set(ids)) and relay.cuts == 0
    back = [request.splitlines() for request in relay.requests if request.startswith(b"GET") and b"/stream" in request]
    assert len(back) == 2 and all(any(line.lower().startswith(b"last-event-id:") for line in one) for one in back)
    assert len(tasks.list_runs("default", thread)) == 2, "the run was not started twice"


def test_a_wait_that_is_cut_is_joined(talking: Talking) -> None:
    thread, command = approved(talking.client)
    with cutting(talking.url, b"/runs/wait", after=5) as relay:
        with get_sync_client(url=relay.url, api_key=talking.key) as client:
            with pytest.warns(UserWarning, match="attempting reconnect"):
                assert client.runs.wait(thread, "conversation", command=command) == {"outcome": "reached"}
    assert relay.cuts == 0 and len(tasks.list_runs("default", thread)) == 2
