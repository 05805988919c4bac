"""Which events of a thread are a run's own."""

from pathlib import Path

from api.routes.threads.following import span
from moatelier.contracts import Event
from store import events, tasks


def test_a_thread_that_is_made_again_under_its_old_id_does_not_replay_the_old_conversation(home: Path) -> None:
    tasks.create_thread("default", id="support-7", graph="conversation")
    events.append([Event(project="default", stream="support-7", job="old", kind="message", body={"content": "secret"})])
    tasks.delete_thread("default", "support-7")
    tasks.create_thread("default", id="support-7", graph="conversation")
    run = tasks.create_run("default", thread="support-7", input={"messages": []})
    events.append([Event(project="default", stream="support-7", job="new", kind="message", body={"content": "hello"})])
    part = span(run)
    assert [event.body["content"] for event in part.look(part.start).news] == ["hello"]
