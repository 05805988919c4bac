"""The loop, closed: serve, 300 judged answers, a trigger, a retrain, a canary, a promotion; then a bad challenger goes.

The API, its routes and the worker's sweep are real; the engine is the fake one and jobs are canned, so that nothing is
trained. Everything a person does here goes over HTTP.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from api.app import create_app
from graphs.loop import Loop
from moatelier.settings import settings
from store import datasets, keys, tasks
from tests import fakes
from tests.api import fake_engine
from tests.api.conftest import make_adapter
from tests.api.running import running, wait_until
from tests.graphs.conftest import Player
from tests.graphs.conftest import player as player

REQUEST = (
    "Train a classifier that predicts intent from message, at least 80% accuracy, at most 1 trial, call it support."
)
ALIAS = "support"


@pytest.fixture
def http(player: Player, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("MOATELIER_KEEP_TEXTS_DAYS", "1")
    monkeypatch.setenv("MOATELIER_FEEDBACK_PER_DAY", "10000")
    settings.cache_clear()
    engine = fake_engine.create(fake_engine.Engine())
    key = keys.ensure_admin()
    with running(engine) as engine_url, running(create_app(engine_url)) as url:
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30) as client:
            yield client


class People:
    """Users who ask and judge; what each side is worth to them is theirs to say."""

    def __init__(self, http: httpx.Client) -> None:
        self.http, self.random, self.asked = http, np.random.default_rng(1), 0

    def ask(self, words: str) -> tuple[str, str]:
        """The answer's id, and who gave it."""
        self.asked += 1
        said = [{"role": "user", "content": words}]
        body = {"model": ALIAS, "messages": said, "user": f"user-{self.asked}"}
        answer = self.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["id"], answer.headers["x-moatelier-adapter"]

    def judge(self, completion: str, **said: Any) -> None:
        kept = self.http.post("/v1/feedback", json={"completion": completion, **said})
        assert kept.status_code == 200, kept.text

    def until_ended(self, worth: dict[str, float], other: float, most: int = 900) -> dict[str, Any]:
        """Ask and judge, with a sweep now and then, until the rollout has ended."""
        for number in range(most):
            completion, by = self.ask(f"question {self.asked}")
            self.judge(completion, rating=1 if self.random.random() < worth.get(by, other) else -1)
            if number % 25 == 24:
                Loop().turn()
                shown = self.http.get(f"/v1/rollouts/{ALIAS}").json()
                if shown["ended_at"]:
                    return dict(shown)
        raise AssertionError(f"no end after {most} judgements: {shown}")


def pointed(http: httpx.Client) -> str:
    return str(http.get(f"/adapters/{ALIAS}").json()["digest"])


def test_the_loop_closes(player: Player, http: httpx.Client, tmp_path: Path) -> None:
    # a task makes the champion
    player.say(REQUEST, train=player.upload(fakes.support_csv(tmp_path / "support.csv")))
    player.approve()
    first = player.ended()
    assert first.name == ALIAS and first.status == "reached"
    champion, people = pointed(http), People(http)
    rollout = {"share": 0.5, "margin": 0.1}
    plan = {"rows": 250, "rest_hours": 0, "rollout": rollout}
    assert http.put(f"/v1/triggers/{ALIAS}", json={"plan": plan}).status_code == 200

    # 300 answers are judged; some words are private
    for number in range(300):
        label = sorted(fakes.INTENTS)[number % 3]
        told = f", write to user{number}@example.com" if number % 10 == 0 else ""
        text = fakes.INTENTS[label][number % 4]
        completion, by = people.ask(f"{text} since {500 + number} days because of reason {number * 13}{told}")
        assert by == champion
        people.judge(completion, rating=-1, label=label)

    def pending() -> int:
        Loop().turn()
        found = http.get("/v1/lessons", params={"alias": ALIAS, "limit": 1}).json()
        return int(found["counts"].get("pending", 0))

    wait_until(lambda: pending() == 300, timeout_s=60)
    assert tasks.list_tasks("default") == [first], "nothing is learnt that nobody has approved"
    assert http.post("/v1/lessons/approve", json={"alias": ALIAS}).json()["count"] == 300

    # the trigger fires once; its task has the data of before and the lessons, redacted
    Loop().turn()
    Loop().turn()
    [retrain] = http.get("/v1/retrains").json()["data"]
    assert (retrain["cause"], retrain["lessons"], retrain["champion"]) == ("rows", 300, champion)
    second = tasks.find_task(retrain["task"])
    wait_until(lambda: tasks.find_task(second.id).ended, timeout_s=60)
    assert tasks.find_task(second.id).status == "reached", tasks.find_task(second.id).error
    before = datasets.file_path("default", first.train_file).read_text()
    after = datasets.file_path("default", second.train_file).read_text()
    assert len(list(csv.reader(after.splitlines()))) == len(list(csv.reader(before.splitlines()))) + 300
    assert after.startswith(before.rstrip("\n")[:200]) and "[email]" in after and "@example.com" not in after
    [gate] = [spec for kind, spec in player.jobs.ran if kind == "gate"][1:]
    assert gate["champion"] == champion, "the champion is the bar"

    # what the gate promoted is tried, and people like it better
    shown = http.get(f"/v1/rollouts/{ALIAS}").json()
    assert shown["state"] == "canary" and shown["champion"] == champion and pointed(http) == champion
    ended = people.until_ended({shown["challenger"]: 0.9}, 0.6)
    assert ended["state"] == "promoted" and pointed(http) == shown["challenger"], ended

    # a bad one is tried by hand, and goes by itself
    bad = make_adapter("other", seed=9).digest
    begun = http.post("/v1/rollouts", json={"alias": ALIAS, "challenger": bad, "plan": rollout})
    assert begun.status_code == 201, begun.text
    ended = people.until_ended({bad: 0.3}, 0.85)
    assert ended["state"] == "rolled_back" and pointed(http) == shown["challenger"], ended
    assert [alert["monitor"] for alert in http.get("/v1/alerts").json()["data"]].count("rollout") == 1
    assert len(http.get("/v1/retrains").json()["data"]) == 1
