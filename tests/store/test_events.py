"""The event log: once each, in order, replayable."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from moatelier.contracts import Event
from moatelier.settings import settings
from store import events


def _event(
    step: int, *, kind: str = "progress", job: str = "train-1", stream: str = "thread-1", **more: object
) -> Event:
    return Event(project="p", stream=stream, job=job, kind=kind, step=step, body={"step": step, **more})


def test_events_come_back_in_order_after_an_id(store: Path) -> None:
    events.append([_event(step) for step in (3, 1, 2)])
    read = events.read("p", stream="thread-1")
    assert [event.step for event in read] == [3, 1, 2]
    ids = [event.id for event in read]
    assert ids == sorted(set(ids), key=lambda id: id or 0) and None not in ids
    assert [event.step for event in events.read("p", after=ids[0] or 0)] == [1, 2]
    assert [event.step for event in events.read("p", limit=1)] == [3]
    assert read[0].at.tzinfo is not None


def test_a_repeat_is_dropped_and_the_first_stays(store: Path) -> None:
    events.append([_event(1, loss=2.0), _event(1, loss=9.0)])
    events.append([_event(1, loss=9.0), _event(2), _event(1, kind="metrics"), _event(1, job="train-2")])
    read = events.read("p")
    assert [(event.job, event.kind, event.step) for event in read] == [
        ("train-1", "progress", 1),
        ("train-1", "progress", 2),
        ("train-1", "metrics", 1),
        ("train-2", "progress", 1),
    ]
    assert read[0].body["loss"] == 2.0


def test_streams_tasks_and_projects_are_apart(store: Path) -> None:
    events.append([_event(1), _event(2, stream="thread-2"), _event(3).model_copy(update={"task": "task-1"})])
    events.append([_event(4).model_copy(update={"project": "other"})])
    assert [event.step for event in events.read("p", stream="thread-1")] == [1, 3]
    assert [event.step for event in events.read("p", task="task-1")] == [3]
    assert [event.step for event in events.read("other")] == [4]
    assert events.last_id("p", stream="thread-2") == events.read("p", stream="thread-2")[0].id
    assert events.last_id("p", stream="none") == 0


def test_a_loss_that_is_no_number_does_not_stop_the_log(store: Path) -> None:
    events.append([_event(1, loss=float("nan"), curve=[1.0, float("inf")], text="a\ud800 ä")])
    body = events.read("p")[0].body
    assert body["loss"] is None and body["curve"] == [1.0, None] and body["text"].endswith("ä")


def test_an_empty_batch_is_fine(store: Path) -> None:
    events.append([])
    assert events.read("p") == []


def test_a_reader_that_follows_misses_nothing(store: Path) -> None:
    """Ids must become visible in order: a reader that saw 8 never asks for 7 again."""

    def write(job: str) -> None:
        for step in range(0, 60, 3):
            events.append([_event(step + more, job=job) for more in range(3)])

    writers = [threading.Thread(target=write, args=(f"job-{number}",)) for number in range(4)]
    for writer in writers:
        writer.start()
    seen, after = 0, 0
    while True:
        running = any(writer.is_alive() for writer in writers)
        new = events.read("p", after=after)
        seen, after = seen + len(new), (new[-1].id or 0) if new else after
        if not new and not running:
            break
    assert seen == 240


_WRITER = """
import sys, itertools
from moatelier.contracts import Event
from store import events
for step in itertools.count():
    events.append([Event(project="p", stream="s", job="j", kind=kind, step=step, body={}) for kind in ("a", "b")])
    print(step, flush=True)
"""


@pytest.mark.parametrize("after_steps", [1, 5])
def test_sigkill_between_writes_leaves_whole_batches(home: Path, after_steps: int) -> None:
    for _ in range(2):  # the second one goes on where the first was killed
        environment = {"MOATELIER_HOME": str(settings().home)}
        process = subprocess.Popen([sys.executable, "-c", _WRITER], env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(after_steps):
            process.stdout.readline()
        process.kill()
        process.communicate()
    read = events.read("p")
    assert len(read) >= 2 * after_steps
    assert [(event.kind, event.step) for event in read] == [
        (kind, step) for step in range(len(read) // 2) for kind in ("a", "b")
    ]
