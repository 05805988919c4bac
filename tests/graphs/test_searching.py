"""A search within a task, with canned jobs: which legs run, what is told, and what a crash changes: nothing."""

import threading
from pathlib import Path
from typing import Any

import pytest

from agents.rungs import steps_of
from graphs import jobs, searching, worker
from moatelier.contracts import TrainSpec
from moatelier.errors import DataError
from store import tasks
from tests import fakes
from tests.graphs.conftest import FakeJobs, Player

REQUEST = (
    "Train a classifier that predicts intent from message, at least 80% accuracy, search over ranks and learning "
    "rates, {trials} trials, in at most {minutes} minutes"
)


class Search(FakeJobs):
    """Trainings that pause, leave a checkpoint, and are better the nearer their rate is to 4e-3."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []
        self.done: dict[str, dict[str, Any]] = {}
        self.broken: float | None = None

    def run_job(self, kind: str, spec: dict[str, Any], **about: Any) -> tuple[str, dict[str, Any]]:
        if kind != "train":
            return super().run_job(kind, spec, **about)
        key = jobs.job_key(about["thread"], kind, about["attempt"], spec)
        self.keys.append(key)
        if key not in self.done:
            self.ran.append((kind, spec))
            self.done[key] = self._leg(key, TrainSpec.model_validate(spec))
        return key, self.done[key]

    def _leg(self, key: str, spec: TrainSpec) -> dict[str, Any]:
        if spec.learning_rate == self.broken:
            raise DataError("The loss became nan at step 7.", where="training")
        if spec.goes_on:
            assert (self._checkpoints(spec.goes_on)).is_dir(), "the checkpoint that it goes on from was removed"
        self._checkpoints(key).mkdir(parents=True)
        steps = spec.until_steps or steps_of(spec, 72)
        before = self.done[spec.goes_on]["seconds"] if spec.goes_on else 0.0
        loss = 0.1 + abs(spec.learning_rate - 4e-3) * 100 + 1 / steps
        told = {"steps": steps, "dev_loss": loss, "seconds": before + 2.0, "loading_seconds": 1.0}
        return (
            self._train(spec.model_dump(mode="json")) | told | {"stopped": "paused" if spec.until_steps else "finished"}
        )

    @staticmethod
    def _checkpoints(key: str) -> Path:
        return Path(searching.settings().home / "jobs" / key / "checkpoints")


@pytest.fixture
def search(player: Player, monkeypatch: pytest.MonkeyPatch) -> Search:
    player.jobs = fake = Search()
    monkeypatch.setattr(jobs, "run_job", fake.run_job)
    return fake


def begin(player: Player, tmp_path: Path, trials: int = 9, minutes: int = 30) -> None:
    file = player.upload(fakes.support_csv(tmp_path / "support.csv"))
    player.say(REQUEST.format(trials=trials, minutes=minutes), train=file)


def trained(search: Search) -> list[TrainSpec]:
    return [TrainSpec.model_validate(spec) for kind, spec in search.ran if kind == "train"]


def test_a_sentence_becomes_a_search_whose_best_goes_to_the_gate(
    player: Player, search: Search, tmp_path: Path
) -> None:
    begin(player, tmp_path)
    plan = player.pending()
    assert plan["plan"]["search"]["value"]["by"] == "tpe" and plan["plan"]["search"]["source"] == "user"
    assert "9 trials drawn by tpe" in plan["action_requests"][0]["description"]
    player.approve()
    task = player.ended()
    assert task.status == "reached" and task.result is not None and task.result["trials"] == 9
    specs = trained(search)
    begun = [spec for spec in specs if spec.goes_on is None]
    assert len(begun) == 9 and len({(spec.rank, spec.learning_rate) for spec in begun}) == 9
    assert len(specs) == 9 + 3 + 1 or len(specs) == 9 + 3
    gate = next(spec for kind, spec in search.ran if kind == "gate")
    best = min(specs, key=lambda spec: (spec.until_steps is not None, abs(spec.learning_rate - 4e-3)))
    assert gate["candidate"] in task.result["adapter"] and best.learning_rate == 4e-3
    assert [kind for kind, _ in search.ran].count("evaluate") == 2 * len([s for s in specs if s.until_steps is None])
    told = player.events("trial")
    assert len(told) == len(specs) and all(event.body["dev_loss"] for event in told)
    assert task.result["train_seconds"] == sum(event.body["seconds"] for event in told)
    assert not list((player.home / "jobs").glob("*/checkpoints")), "no checkpoint is left behind"
    page = (player.home / "reports" / task.id / "index.html").read_text()
    assert "The search" in page and "loss on dev rows" in page and "pruned" in page


def test_killed_between_any_two_writes_no_leg_is_lost_or_done_twice_and_the_moves_are_the_same(
    player: Player, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(player, tmp_path)
    player.pending()
    deaths: dict[str, int] = {}
    say, ended = searching.say, threading.Event()

    def dying(state: Any, kind: str, **body: Any) -> None:
        say(state, kind, **body)
        deaths[kind] = deaths.get(kind, 0) + 1
        if deaths[kind] % 2:  # every other time, when the job is done and told of but not yet written down
            raise KeyboardInterrupt("killed")

    def again(run: str) -> None:
        while not ended.is_set():
            try:
                worker.advance(run)
                return
            except KeyboardInterrupt:
                continue

    monkeypatch.setattr(searching, "say", dying)
    monkeypatch.setattr(
        jobs, "submit_run", lambda run: threading.Thread(target=again, args=(run,), daemon=True).start()
    )
    player.approve()
    task = player.ended()
    ended.set()
    assert task.status == "reached"
    told = player.events("trial")
    assert len(search.done) == len(trained(search)) == len(told) == len(set(search.keys))
    assert len(search.keys) > len(search.done), "nodes did run again, and found their jobs done"
    assert sorted({event.body["trial"] for event in told}) == list(range(1, 10))
    decisions = [e.body["decision"] for e in player.events("decision") if e.body["agent"] == "trainer"]
    asked = [each["leg"]["spec"] for each in decisions if "leg" in each and each["leg"]["result"] is None]
    assert [TrainSpec.model_validate(spec) for spec in asked] == trained(search)


def test_a_trial_that_fails_is_told_and_the_others_go_on(player: Player, search: Search, tmp_path: Path) -> None:
    search.broken = 8e-3
    begin(player, tmp_path, trials=12)
    player.approve()
    task = player.ended()
    failed = [event.body for event in player.events("trial") if event.body["status"] == "failed"]
    assert task.status == "reached" and failed and "nan at step 7" in failed[0]["reason"]
    page = (player.home / "reports" / task.id / "index.html").read_text()
    assert "nan at step 7" in page


def test_when_all_fail_the_task_fails_with_the_reason(
    player: Player, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise DataError("No trained token.", where="row 3")

    monkeypatch.setattr(search, "_leg", broken)
    begin(player, tmp_path)
    player.approve()
    task = player.ended()
    assert task.status == "failed" and task.error is not None and "No trained token" in task.error["what"]
    assert len(search.keys) == 3


def test_when_the_time_is_up_the_best_so_far_goes_to_the_gate(
    player: Player, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leg = search._leg

    def slow(key: str, spec: TrainSpec) -> dict[str, Any]:
        return leg(key, spec) | {"seconds": 100.0 + 100 * bool(spec.goes_on), "stopped": "paused"}

    monkeypatch.setattr(search, "_leg", slow)
    begin(player, tmp_path, minutes=5)
    player.approve()
    task = player.ended()
    assert task.status == "reached" and task.result is not None
    assert task.result["train_seconds"] <= 300 and task.result["trials"] < 9
    assert "fitted into the time" in task.result["stopped_because"]


def test_cancelling_leaves_no_checkpoint(
    player: Player, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leg = search._leg

    def cancelled(key: str, spec: TrainSpec) -> dict[str, Any]:
        told = leg(key, spec)
        if len(search.done) == 3:
            tasks.update_task(player.task().id, cancel_requested=True)  # type: ignore[union-attr]
        return told

    monkeypatch.setattr(search, "_leg", cancelled)
    begin(player, tmp_path)
    player.approve()
    assert player.ended().status == "cancelled"
    assert len(search.done) == 4 and not list((player.home / "jobs").glob("*/checkpoints"))
