"""A rollout from its first answer to its end, and what a SIGKILL in the middle of it leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphs import rollouts as driver
from moatelier.contracts import Event, Feedback, Observation, RolloutPlan, RouteDecision
from store import adapters, alerts, audit, events, feedback, observations, rollouts, tasks
from tests.api.conftest import make_adapter

pytestmark = pytest.mark.usefixtures("home")
COUNT = iter(range(10**9))


@pytest.fixture
def pair() -> tuple[str, str]:
    champion, challenger = (make_adapter(seed=seed).digest for seed in (1, 2))
    adapters.set_alias("default", "support", champion, fence=1, actor="test")
    return champion, challenger


def begin(challenger: str, **plan: Any) -> rollouts.Rollout:
    return rollouts.begin("default", "support", challenger, RolloutPlan(**{"share": 0.5, **plan}), actor="key-1")


def answer(rollout: rollouts.Rollout, side: Any, *, good: bool = True, subject: str = "", shadow: bool = False) -> str:
    chosen = getattr(rollout, side)
    number = next(COUNT)
    seen = Observation(
        project="default",
        model="support",
        chosen=chosen,
        rollout=rollout.id,
        side=side,
        subject=subject or f"s-{number}",
        shadow=shadow,
        good=good,
    )
    observations.append([seen])
    told = RouteDecision(
        requested="support", chosen=chosen, reason="alias", completion=f"c-{number}", rollout=rollout.id, side=side
    )
    logged = {"project": "default", "stream": "inference", "job": f"c-{number}", "kind": "route"}
    events.append([Event(**logged, body=told.model_dump(mode="json"))])
    return f"c-{number}"


def judge(completion: str, good: bool, key: str = "") -> None:
    feedback.put(
        "default", key or f"key-{next(COUNT)}", Feedback(completion=completion, rating=1 if good else -1), int(good)
    )


def people(rollout: rollouts.Rollout, ours: float, theirs: float, count: int, seed: int = 0) -> int:
    """Requests with judgements until the rollout has ended; `count` when it has not."""
    random = np.random.default_rng(seed)
    for number in range(count):
        side = "challenger" if random.random() < rollout.plan.share else "champion"
        judge(answer(rollout, side), bool(random.random() < (ours if side == "challenger" else theirs)))
        if number % 10 == 9 and driver.look_after():
            return number
    return count


def test_a_better_challenger_takes_the_place(pair: tuple[str, str]) -> None:
    begun = begin(pair[1])
    assert people(begun, 0.9, 0.6, 900) < 900
    ended = rollouts.get("default", begun.id)
    assert ended.state == "promoted" and "Not worse" in ended.reason, ended
    assert adapters.alias_of("default", "support") == (pair[1], 2)
    told = events.find("default", f"{begun.id}/promoted", "rollout")
    assert told is not None and told.body["reason"] == ended.reason
    assert [one.plan for one in rollouts.list_rollouts("default")] == [begun.plan] and alerts.list_alerts(
        "default"
    ) == []


def test_a_worse_one_is_rolled_back_by_itself_and_an_alert_says_so(pair: tuple[str, str]) -> None:
    begun = begin(pair[1])
    assert people(begun, 0.4, 0.8, 600) < 600
    ended = rollouts.get("default", begun.id)
    assert ended.state == "rolled_back" and "worse" in ended.reason
    assert adapters.alias_of("default", "support") == (pair[0], 1)
    [alert] = alerts.list_alerts("default")
    assert alert.monitor == "rollout" and alert.body["rollout"] == begun.id
    driver.look_after()
    assert len(alerts.list_alerts("default")) == 1


def test_one_that_fails_is_rolled_back_without_a_word_of_anybody(pair: tuple[str, str]) -> None:
    begun = begin(pair[1])
    for _ in range(60):
        answer(begun, "champion")
        answer(begun, "challenger", good=False)
    assert driver.look_after() == 1
    assert rollouts.get("default", begun.id).state == "rolled_back"


def test_health_alone_promotes_where_the_plan_says_so(pair: tuple[str, str]) -> None:
    begun = begin(pair[1], watch="answered", margin=0.05)
    for _ in range(250):
        answer(begun, "champion")
        answer(begun, "challenger")
    assert driver.look_after() == 1 and rollouts.get("default", begun.id).state == "promoted"


def test_one_key_that_sends_a_thousand_thumbs_decides_nothing(pair: tuple[str, str]) -> None:
    begun = begin(pair[1])
    for _ in range(500):
        judge(answer(begun, "champion", subject="s"), False, key="loud")
        judge(answer(begun, "challenger", subject="s"), True, key="loud")
    assert driver.look_after() == 0
    evidence = driver.gather(begun)
    assert [(found.challenger, found.champion) for found in evidence.compared] == [(5, 5), (5, 5)]


def test_equal_ones_are_seldom_called_worse(pair: tuple[str, str]) -> None:
    """Looked at after every tenth answer; that alpha holds over all looks, tests/evals/test_sequential.py shows."""
    bad = 0
    for seed in range(3):
        begun = begin(pair[1])
        people(begun, 0.75, 0.75, 100, seed)
        bad += rollouts.get("default", begun.id).state == "rolled_back"
        rollouts.move("default", begun.id, "stop", "next", actor="test")
        pointed = adapters.alias_of("default", "support")
        assert pointed is not None
        if pointed[0] != pair[0]:
            adapters.set_alias("default", "support", pair[0], fence=pointed[1] + 1, actor="test")
    assert bad == 0


def test_the_shadow_comes_before_the_canary(pair: tuple[str, str]) -> None:
    begun = begin(pair[1], shadow=40)
    assert begun.state == "shadow"
    for _ in range(40):
        answer(begun, "champion")
        answer(begun, "challenger", shadow=True)
        driver.look_after()
    assert rollouts.get("default", begun.id).state == "canary"


def test_a_moved_alias_ends_it(pair: tuple[str, str]) -> None:
    begun = begin(pair[1])
    adapters.set_alias("default", "support", make_adapter(seed=3).digest, fence=2, actor="a person")
    assert driver.look_after() == 1
    assert rollouts.get("default", begun.id).state == "stopped"


@pytest.mark.parametrize("place", ["before", "inside", "after"])
@pytest.mark.parametrize("move", ["promote", "roll_back"])
def test_killed_in_a_move_it_ends_with_one_state(pair: tuple[str, str], home: Path, place: str, move: str) -> None:
    begun = begin(pair[1], watch="answered")
    for _ in range(250):
        answer(begun, "champion")
        answer(begun, "challenger", good=move == "promote")
    name = f"rollout.{place}_{move}"
    command = [sys.executable, "-c", "from graphs import rollouts; rollouts.look_after()"]
    process = subprocess.Popen(command, env={**os.environ, "MOATELIER_FAULT": name})
    marker = home / "faults" / name
    deadline = time.monotonic() + 60
    while not (marker.exists() and marker.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, "it did not come by"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    promoted = move == "promote"
    pointed = adapters.alias_of("default", "support")
    done = promoted and place == "after"
    assert pointed == ((pair[1], 2) if done else (pair[0], 1)), "all of it or nothing"
    driver.look_after()
    driver.look_after()
    assert adapters.alias_of("default", "support") == ((pair[1], 2) if promoted else (pair[0], 1))
    ended = rollouts.get("default", begun.id)
    assert ended.state == ("promoted" if promoted else "rolled_back")
    assert [line.action for line in audit.read("default") if line.subject == begun.id] == [
        "rollout.canary",
        f"rollout.{ended.state}",
    ]
    assert len(tasks.unstarted_runs(older_than_s=-1)) == int(promoted)
    told = [event for event in events.read("default", stream="inference", limit=5000) if event.kind == "rollout"]
    assert [event.body["state"] for event in told if event.body["rollout"] == begun.id][-1:] == [ended.state]
    assert len(alerts.list_alerts("default")) == int(not promoted)
