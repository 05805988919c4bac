"""Triggers fire when they say, once; a retrain has the data of before; a SIGKILL loses nothing."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from graphs import jobs, ordering, retraining
from graphs import lessons as gathering
from moatelier.contracts import Order, RetrainPlan, RolloutPlan, TaskPlan, now
from moatelier.errors import Conflict, InvalidRequest, NotFound
from moatelier.settings import settings
from store import adapters, alerts, artifacts, audit, datasets, lessons, orders, retrains, rollouts, tasks
from tests import fakes
from tests.api.conftest import make_adapter
from tests.api.running import wait_until
from tests.graphs.conftest import Player
from tests.graphs.learning import ALIAS, ROWS, answered, champion, judge


@pytest.fixture
def record(home: Path, monkeypatch: pytest.MonkeyPatch) -> adapters.AdapterRecord:
    monkeypatch.setattr(jobs, "submit_run", lambda _: None)
    return champion()


def teach(record: adapters.AdapterRecord, count: int, key: str = "", approve: bool = True, mark: str = "") -> None:
    for number in range(count):
        judge(answered(record, f"question {mark}{number} of {key}"), key=key, label="b")
    gathering.gather()
    if approve:
        lessons.judge_pending("default", ALIAS, "approved", actor="k")


def trigger(**plan: Any) -> retrains.Trigger:
    return retrains.put_trigger("default", ALIAS, RetrainPlan(**{"rest_hours": 0, **plan}), actor="k")


def test_enough_approved_lessons_begin_a_task_with_the_plan_and_data_of_before(record: adapters.AdapterRecord) -> None:
    trigger(rows=5, rollout=RolloutPlan(share=0.3))
    teach(record, 4)
    teach(record, 1, approve=False, mark="x")
    assert retraining.fire_due() == 0
    lessons.judge_pending("default", ALIAS, "approved", actor="k")
    assert retraining.fire_due() == 1 and retraining.fire_due() == 0
    [retrain] = retrains.list_retrains("default")
    assert (retrain.cause, retrain.lessons, retrain.status, retrain.champion) == ("rows", 5, "started", record.digest)
    task = tasks.get_task("default", str(retrain.task))
    text = datasets.file_path("default", task.train_file).read_text()
    assert text.startswith(ROWS) and text.count(",b\n") == 1 + 5
    [run] = tasks.list_runs("default", task.thread)
    order = (run.input or {})["order"]
    again = TaskPlan.model_validate(artifacts.get_json(order["again"]))
    before = tasks.get_task("default", "task-1").plan
    lineage = (orders.get("default", task.id) or {})["metadata"]
    assert lineage["champion"] == record.digest and lineage["champion_dataset"] == record.manifest.dataset
    assert before is not None and lineage["champion_file"] == before.train_file
    assert again == before and again.name == ALIAS and order["rollout"]["share"] == 0.3
    assert lessons.counts("default", ALIAS) == {"used": 5}
    assert [line.action for line in audit.read("default") if line.actor == "trigger"] == ["retrain.fired"]


def test_one_voice_is_not_taken_for_many(record: adapters.AdapterRecord) -> None:
    trigger(rows=10, per_voice=3)
    teach(record, 30, key="loud")
    assert retraining.fire_due() == 0
    teach(record, 7, mark="more ")
    assert retraining.fire_due() == 1
    [retrain] = retrains.list_retrains("default")
    assert retrain.lessons == 10 and lessons.counts("default", ALIAS) == {"used": 10, "approved": 27}


def test_a_schedule_and_drift_begin_one_too(record: adapters.AdapterRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trigger(rows=None, schedule="0 3 * * *", least=2)
    teach(record, 2)
    assert retraining.fire_due() == 0 and made.next_at is not None
    monkeypatch.setattr(retrains, "now", lambda: now() + timedelta(days=1))
    assert retraining.fire_due() == 1
    assert retrains.list_retrains("default")[0].cause == "schedule"
    due = retrains.get_trigger("default", ALIAS).next_at
    assert due is not None and due > made.next_at


def test_drift_begins_one_after_its_alert(record: adapters.AdapterRecord) -> None:
    trigger(rows=None, drift=True, least=2)
    teach(record, 2)
    alerts.raise_once("default", "latency", ALIAS, "slow", {}, about="1")
    assert retraining.fire_due() == 0, "that is no drift"
    alerts.raise_once("default", "drift_prompts", ALIAS, "others", {}, about="1")
    assert retraining.fire_due() == 1 and retrains.list_retrains("default")[0].cause == "drift"


def test_nothing_begins_beside_a_rollout_or_another_retrain(record: adapters.AdapterRecord) -> None:
    trigger(rows=2)
    begun = rollouts.begin("default", ALIAS, make_adapter(seed=2).digest, RolloutPlan(), actor="k")
    teach(record, 2)
    assert retraining.fire_due() == 0
    with pytest.raises(Conflict, match="rollout"):
        retrains.fire("default", ALIAS, by="k")
    rollouts.move("default", begun.id, "stop", "enough", actor="k")
    assert retraining.fire_due() == 1
    teach(record, 2, mark="more ")
    assert retraining.fire_due() == 0, "its task is under way"
    first = retrains.list_retrains("default")[0]
    tasks.update_task(str(first.task), status="not_reached")
    assert retraining.fire_due() == 1
    second = retrains.list_retrains("default")[0]
    text = datasets.file_path("default", tasks.get_task("default", str(second.task)).train_file).read_text()
    assert second.number == 2 and text.count(",b\n") == 1 + 4, "what the first one took is not lost"


def test_a_person_begins_one_and_it_rests_afterwards(record: adapters.AdapterRecord) -> None:
    trigger(rows=1, rest_hours=24)
    with pytest.raises(Conflict, match="no approved lessons"):
        retrains.fire("default", ALIAS, by="k")
    teach(record, 1)
    fired = retrains.fire("default", ALIAS, by="k")
    assert fired is not None and fired.cause == "person"
    retraining.fire_due()
    tasks.update_task(str(retrains.get("default", fired.id).task), status="failed")
    teach(record, 1, mark="more ")
    assert retraining.fire_due() == 0


def test_what_cannot_begin_is_told_once_and_the_champion_stays(record: adapters.AdapterRecord) -> None:
    trigger(rows=1)
    teach(record, 1)
    tasks.update_task("task-1", train_file="file-gone")
    assert retraining.fire_due() == 0 and retraining.fire_due() == 0
    [retrain] = retrains.list_retrains("default")
    assert retrain.status == "failed" and retrain.error is not None and retrain.error["code"] == "not_found"
    assert [alert.monitor for alert in alerts.list_alerts("default")] == ["retrain"]
    assert adapters.alias_of("default", ALIAS) == (record.digest, 1)


@pytest.mark.parametrize(
    ("plan", "error"), [({"rows": None}, InvalidRequest), ({"rows": None, "schedule": "now"}, InvalidRequest)]
)
def test_a_trigger_that_says_nothing_is_refused(record: adapters.AdapterRecord, plan: Any, error: Any) -> None:
    with pytest.raises(error):
        trigger(**plan)
    with pytest.raises(NotFound):
        retrains.put_trigger("default", "nobody", RetrainPlan(), actor="k")
    with pytest.raises(NotFound):
        retrains.fire("default", ALIAS)


PLACES = ("before_fire", "inside_fire", "after_fire", "after_file", "after_task")
SCRIPT = "from graphs import jobs, retraining\njobs.submit_run = lambda _: None\nretraining.fire_due()"


@pytest.mark.parametrize("place", PLACES)
def test_killed_during_a_trigger_there_is_one_retrain(record: adapters.AdapterRecord, home: Path, place: str) -> None:
    trigger(rows=3)
    teach(record, 3)
    name = f"retrain.{place}"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], env={**os.environ, "MOATELIER_FAULT": name})
    marker, deadline = home / "faults" / name, time.monotonic() + 60
    while not (marker.exists() and marker.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, "it did not come by"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(2):
        retraining.fire_due()
    [retrain] = retrains.list_retrains("default")
    assert (retrain.status, retrain.lessons) == ("started", 3)
    made = [task for task in tasks.list_tasks("default") if task.id != "task-1"]
    assert [task.id for task in made] == [retrain.task]
    assert len(datasets.list_files("default")) == 2 and len(tasks.list_runs("default", made[0].thread)) == 1
    assert lessons.counts("default", ALIAS) == {"used": 3}


def test_an_order_with_a_rollout_waits_for_no_other(player: Player, tmp_path: Path) -> None:
    """By canned jobs: the alias stays, and where a rollout is under way the candidate is only registered."""
    words = "Train a classifier that predicts intent from message, at least 80% accuracy, 1 trial, call it support."
    player.say(words, train=player.upload(fakes.support_csv(tmp_path / "support.csv")))
    player.approve()
    first = player.ended()
    held = adapters.alias_of("default", ALIAS)
    assert held is not None and first.plan is not None
    for number, state in enumerate(("tried", "refused")):
        order = Order(
            model=settings().base,
            method="supervised",
            suffix=ALIAS,
            again=artifacts.put_json(first.plan),
            rollout=RolloutPlan(),
        )
        file = player.upload(fakes.support_csv(tmp_path / f"more-{number}.csv", rows_per_intent=50 + number))
        asked = {"request": {}, "words": "again", "train_file": file, "test_file": None}
        task = ordering.start("default", order, id=f"task-again-{number}", **asked)
        wait_until(lambda id=task.id: tasks.find_task(id).ended, timeout_s=60)
        ended = tasks.find_task(task.id)
        assert ended.status == "reached" and ended.result is not None and ended.result["promoted"], ended.error
        assert ("rollout" in ended.result) == (state == "tried") and adapters.alias_of("default", ALIAS) == held
        assert adapters.get("default", ended.result["adapter"]).aliases == ()
    [begun] = rollouts.list_rollouts("default")
    assert begun.actor == "task-again-0" and begun.state == "canary"
