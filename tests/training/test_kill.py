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
        return dict(json.loads((self.folder / "result.json").read_text()))

    def kill_at(self, point: str) -> None:
        process = self.start(point)
        wait_for(process, lambda: (self.home / "faults" / point).exists())
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (self.folder / "result.json").exists()

    def kill_after(self, steps: int, seconds: float) -> None:
        """Kill it so long after that many steps."""
        process = self.start()
        wait_for(process, lambda: (self.folder / "events.jsonl").exists() and len(self.steps()) >= steps)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it had ended; give it more epochs"

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


@pytest.mark.slow
@pytest.mark.parametrize("attempt", [1, 2])
def test_killed_at_a_random_moment_it_ends_with_the_same_bits(home: Path, card: str, attempt: int) -> None:
    long: dict[str, Any] = {"epochs": 20.0, "checkpoint_every": 7}
    whole = Training(home, card, "undisturbed", **long).finish()
    for kept in ("adapters", "frozen"):
        (home / kept).rename(home / f"{kept}-undisturbed")
    chance = random.SystemRandom()
    steps, seconds = chance.randrange(80), chance.uniform(0, 0.05)
    print(f"killed {seconds:.3f} s after step {steps}")
    killed = Training(home, card, **long)
    killed.kill_after(steps, seconds)
    assert outcome(killed.finish()) == outcome(whole)
    weights = Path(whole["bundle"]) / "adapter_model.safetensors"
    assert (home / "adapters" / weights).read_bytes() == (home / "adapters-undisturbed" / weights).read_bytes()
    assert set(killed.steps()) == set(range(1, 101))


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
