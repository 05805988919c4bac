"""Crons: when they are due, and that a time is fired once."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from graphs import jobs, worker
from moatelier.errors import Conflict, InvalidRequest, NotFound
from store import crons, tasks
from store.runs import Run
from store.threads import forget_stateless

SAID = {"messages": [{"role": "user", "content": "again"}], "files": {}}
LATER = datetime.now(UTC) + timedelta(days=800)


@pytest.mark.parametrize(
    ("schedule", "zone", "after", "expected"),
    [
        ("0 3 * * 1", None, "2026-11-30T02:59:00+00:00", "2026-11-30T03:00:00+00:00"),
        ("0 3 * * 1", None, "2026-11-30T03:00:00+00:00", "2026-12-07T03:00:00+00:00"),
        ("*/15 * * * *", None, "2026-11-30T23:50:00+00:00", "2026-12-01T00:00:00+00:00"),
        ("30 8 * * *", "Europe/Berlin", "2026-07-01T07:00:00+00:00", "2026-07-02T06:30:00+00:00"),
        ("30 8 * * *", "Europe/Berlin", "2026-12-01T08:00:00+00:00", "2026-12-02T07:30:00+00:00"),
        # Clocks are set back: an hour that is named comes once, every hour comes with both.
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:00:00+00:00", "2026-10-25T00:30:00+00:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00+00:00", "2026-10-26T01:30:00+00:00"),
        ("0 * * * *", "Europe/Berlin", "2026-10-25T00:00:00+00:00", "2026-10-25T01:00:00+00:00"),
        # And forward: what is left out comes at the end of the hour that is not there.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T01:30:00+00:00", "2026-03-29T01:00:00+00:00"),
    ],
)
def test_when_a_schedule_comes_round(schedule: str, zone: str | None, after: str, expected: str) -> None:
    assert crons.next_time(schedule, zone, datetime.fromisoformat(after)) == datetime.fromisoformat(expected)


@pytest.mark.parametrize(
    ("schedule", "zone", "where"),
    [
        ("* * * * * *", None, "schedule"),
        ("often", None, "schedule"),
        ("61 * * * *", None, "schedule"),
        ("0 0 31 2 *", None, "schedule"),
        ("0 0 * * *", "Mars/Olympus", "timezone"),
        ("0 0 * * *", "../../etc/passwd", "timezone"),
    ],
)
def test_what_is_no_schedule(home: Path, schedule: str, zone: str | None, where: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        crons.create("p", thread=None, schedule=schedule, timezone=zone, input=SAID)
    assert caught.value.where == where
    assert crons.count("p") == 0


def test_a_time_is_fired_once_however_many_look(home: Path) -> None:
    cron = crons.create("p", thread=None, schedule="* * * * *", input=SAID, metadata={"team": "care"})
    assert cron.next_at is not None
    assert crons.due(cron.next_at - timedelta(seconds=1)) == []
    assert crons.fire(cron.id, cron.next_at - timedelta(seconds=1)) is None
    moment, fired = cron.next_at + timedelta(hours=5), list[Run | None]()
    lookers = [threading.Thread(target=lambda: fired.append(crons.fire(cron.id, moment))) for _ in range(6)]
    for one in lookers:
        one.start()
    for one in lookers:
        one.join()
    (run,) = [one for one in fired if one is not None]
    assert run.input == SAID and run.metadata == {"team": "care", "cron_id": cron.id}
    thread = tasks.find_thread(run.thread)
    assert (thread.project, thread.status, thread.stateless) == ("p", "busy", True)
    following = crons.search("p")[0].next_at
    assert following is not None and moment < following <= moment + timedelta(minutes=1), "five hours are made up once"


def test_a_cron_waits_for_its_thread(home: Path) -> None:
    """What it says would be taken for the person's answer, or refused."""
    thread = tasks.create_thread("p", graph="conversation").id
    cron = crons.create("p", thread=thread, schedule="* * * * *", input=SAID)
    for status in ("busy", "interrupted"):
        tasks.update_thread(thread, status=status)
        assert crons.fire(cron.id, LATER) is None and crons.due(LATER) == [cron.id]
    tasks.update_thread(thread, status="idle")
    run = crons.fire(cron.id, LATER)
    assert run is not None and run.thread == thread and not tasks.find_thread(thread).stateless
    with pytest.raises(NotFound):
        crons.create("other", thread=thread, schedule="* * * * *", input=SAID)
    tasks.end_run(run.id, thread={"status": "idle"}, status="success")
    tasks.delete_thread("p", thread)
    assert crons.search("p") == [], "a cron leaves with its thread"


def test_an_end_and_a_switch(home: Path) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    assert crons.create("p", thread=None, schedule="0 0 1 1 *", input=SAID, end_time=soon).next_at is None
    cron = crons.create("p", thread=None, schedule="* * * * *", input=SAID, enabled=False)
    assert cron.next_at is None and crons.due(LATER) == []
    on = crons.change("p", cron.id, enabled=True, schedule="0 0 1 1 *")
    assert on.next_at is not None and (on.next_at.month, on.next_at.day) == (1, 1)
    with pytest.raises(NotFound):
        crons.change("other", cron.id, enabled=False)
    with pytest.raises(NotFound):
        crons.delete("other", cron.id)
    crons.delete("p", cron.id)
    assert crons.count("p") == 1


def test_a_project_has_so_many(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crons, "MOST", 1)
    crons.create("p", thread=None, schedule="* * * * *", input=SAID)
    with pytest.raises(Conflict):
        crons.create("p", thread=None, schedule="* * * * *", input=SAID)
    crons.create("q", thread=None, schedule="* * * * *", input=SAID)


def test_the_sweeper_fires_and_queues_and_goes_on_when_one_fails(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (crons.create("p", thread=None, schedule="* * * * *", input=SAID) for _ in range(2))
    queued: list[str] = []
    fire = crons.fire

    def broken(id: str) -> Run | None:
        if id == first.id:
            raise Conflict("It is broken.")
        return fire(id, LATER)

    monkeypatch.setattr(jobs, "submit_run", queued.append)
    monkeypatch.setattr(crons, "due", lambda: [first.id, second.id])
    monkeypatch.setattr(crons, "fire", broken)
    worker.sweep()
    (run,) = [tasks.find_run(id) for id in queued]
    assert run.metadata == {"cron_id": second.id}


def test_a_stateless_thread_is_forgotten_after_its_run_unless_somebody_may_still_answer(home: Path) -> None:
    made = [tasks.create_thread("p", graph="conversation", stateless=n > 0).id for n in range(5)]
    runs = [tasks.create_run("p", thread=thread, input=SAID) for thread in made[:4]]  # the last has none yet
    tasks.create_task(
        "p", id="task-1", thread="inner", conversation=made[3], request="x", train_file="file-1", test_file=None
    )
    for run, status in zip(runs, ("idle", "idle", "interrupted", "idle"), strict=True):
        tasks.end_run(run.id, thread={"status": status}, status="success")
    tasks.update_thread(made[3], task="task-1")
    assert forget_stateless(3600) == 0
    assert forget_stateless(0) == 1
    with pytest.raises(NotFound):
        tasks.find_thread(made[1])
    tasks.update_task("task-1", status="rejected")
    assert forget_stateless(0) == 1
    assert {thread.id for thread in tasks.search_threads("p")} == {made[0], made[2], made[4]}
