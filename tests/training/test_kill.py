"""SIGKILL from outside at every named place of a training, at random moments, and SIGTERM; never by raising.

Guards against resumes that jump or restart: ms-swift#8383, ms-swift#3951, transformers#35782.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.training import nursery
from tests.training.rows import dataset, rows, spec

POINTS = [
    "train.start",
    "train.before_first_checkpoint",
    "train.between_checkpoints",
    "checkpoint.inside",
    "train.sealing",
]


class Training:
    """`python -m training.run` on one job folder."""

    def __init__(self, home: Path, card: str, name: str = "job", **changes: Any) -> None:
        self.home, self.folder = home, home / "jobs" / name
        self.folder.mkdir(parents=True)
        self._spec = self.folder / "spec.json"
        self._spec.write_text(spec(card, dropout=0.1, **changes).model_dump_json())

    def start(self, fault: str = "") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "training.run", "--spec", str(self._spec), "--folder", str(self.folder)]
        return subprocess.Popen([*command, "--quiet"], env={**os.environ, "MOATELIER_FAULT": fault})

    def finish(self) -> dict[str, Any]:
        assert self.start().wait(120) == 0
        return self.result()

    def kill_at(self, point: str) -> None:
        process = self.start(point)
        wait_for(process, lambda: (self.home / "faults" / point).exists())
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (self.folder / "result.json").exists()

    def result(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "result.json").read_text()))

    def said(self) -> int:
        """How many events there are."""
        events = self.folder / "events.jsonl"
        return events.read_bytes().count(b"\n") if events.exists() else 0

    def steps(self) -> list[int]:
        events = map(json.loads, (self.folder / "events.jsonl").read_text().splitlines())
        return [event["step"] for event in events if event["kind"] == "progress"]


def wait_for(process: subprocess.Popen[bytes], condition: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def outcome(result: dict[str, Any]) -> tuple[Any, ...]:
    return result["bundle"], result["curve"], result["dev_curve"], result["steps"]


def undisturbed(home: Path, card: str, **changes: Any) -> tuple[Any, ...]:
    """What comes out when nobody kills. The bundle is moved away: one that is there already is not sealed again."""
    result = Training(home, card, "undisturbed", **changes).finish()
    (home / "adapters" / result["bundle"]).rename(home / "kept")
    return outcome(result)


@pytest.fixture
def card(tiny: str) -> str:
    return dataset(rows(30), rows(9, start=30))


def test_killed_inside_a_checkpoint_it_ends_with_the_same_bits(home: Path, card: str) -> None:
    expected = undisturbed(home, card)
    killed = Training(home, card)
    killed.kill_at("checkpoint.inside")
    result = killed.finish()
    assert outcome(result) == expected
    assert set(killed.steps()) == set(range(1, 11))
    assert [entry.name for entry in (home / "adapters").iterdir() if entry.is_dir()] == [result["bundle"]]


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_it_ends_with_the_same_bits(home: Path, card: str, point: str) -> None:
    expected = undisturbed(home, card)
    killed = Training(home, card)
    killed.kill_at(point)
    assert outcome(killed.finish()) == expected
    assert set(killed.steps()) == set(range(1, 11))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["adalora", "dylora", "pissa", "vera", "qlora"])
def test_what_a_method_remembers_survives_a_kill(home: Path, card: str, method: str) -> None:
    """AdaLoRA's judgements, DyLoRA's rank; and PiSSA's rest of the base is the same when it is computed anew."""
    expected = undisturbed(home, card, method=method)
    killed = Training(home, card, method=method)
    for point in ("train.between_checkpoints", "checkpoint.inside"):
        killed.kill_at(point)
    assert outcome(killed.finish()) == expected


@pytest.mark.slow
def test_killed_at_every_point_in_turn(home: Path, card: str) -> None:
    expected = undisturbed(home, card)
    killed = Training(home, card)
    for point in POINTS:
        killed.kill_at(point)
    assert outcome(killed.finish()) == expected


@pytest.mark.parametrize(
    ("kills", "diverges_at"),
    [(5, 0), pytest.param(20, 0, marks=pytest.mark.slow), pytest.param(20, 60, marks=pytest.mark.slow)],
)
def test_killed_at_random_moments_it_ends_with_the_same_bits(
    home: Path, card: str, kills: int, diverges_at: int
) -> None:
    """Every fifth of them inside the write of a checkpoint; with a loss that is twice not a number as well."""
    long: dict[str, Any] = {"epochs": 10.0 * max(1, kills // 5), "checkpoint_every": 3}
    whole, killed = Training(home, card, "undisturbed", **long), Training(home, card, **long)
    nursery.finish(whole.folder, diverges_at=diverges_at)
    for kept in ("adapters", "frozen"):
        (home / kept).rename(home / f"{kept}-undisturbed")
    seed = random.SystemRandom().randrange(10**6)
    chance, places = random.Random(seed), list[str]()
    for number in range(kills):
        if number % 5 == 3:
            places.append(nursery.kill_inside_a_checkpoint(killed.folder, diverges_at=diverges_at))
        else:
            places.append(nursery.kill_at_random(killed.folder, chance, killed.said, diverges_at=diverges_at))
    print(f"seed {seed}", *places, sep="\n")
    nursery.finish(killed.folder, diverges_at=diverges_at)
    assert outcome(killed.result()) == outcome(whole.result())
    assert len(killed.result().get("setbacks", [])) == (2 if diverges_at else 0)
    weights = Path(whole.result()["bundle"]) / "adapter_model.safetensors"
    assert (home / "adapters" / weights).read_bytes() == (home / "adapters-undisturbed" / weights).read_bytes()
    assert set(killed.steps()) == set(range(1, 5 * int(long["epochs"]) + 1))


@pytest.mark.slow
def test_sigterm_saves_and_leaves_with_3_and_a_successor_waits_for_the_lock(home: Path, card: str) -> None:
    expected = undisturbed(home, card)
    training = Training(home, card)
    process = training.start()
    wait_for(process, lambda: (training.folder / "events.jsonl").exists() and len(training.steps()) >= 1)
    successor = training.start()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (0, 3)  # 0 if it was at the end already
    assert successor.wait(120) == 0
    assert outcome(training.finish()) == expected
