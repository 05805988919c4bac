"""Training processes that start in a blink: a server that has imported everything forks one for each life."""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from moatelier.job import main
from moatelier.settings import settings
from tests.training.planted import plant
from training.run import work

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.training.nursery", "training.text", "training.methods.lora"])
INSIDE = "checkpoint.inside"


def _live(environment: dict[str, str], folder: str, diverges_at: int) -> None:
    os.environ.update(environment)
    settings.cache_clear()
    if diverges_at:
        plant(pytest.MonkeyPatch(), at=diverges_at, times=2)
    sys.argv = ["training.run", "--spec", f"{folder}/spec.json", "--folder", folder, "--quiet"]
    main("training.run", work)


def start(folder: Path, *, fault: str = "", diverges_at: int = 0) -> BaseProcess:
    """`python -m training.run` on the folder's spec; `diverges_at` is a step whose loss is twice not a number."""
    environment = {name: value for name, value in os.environ.items() if name.startswith("MOATELIER_")}
    process = _FORKS.Process(target=_live, args=(environment | {"MOATELIER_FAULT": fault}, str(folder), diverges_at))
    process.start()
    return process


def finish(folder: Path, *, diverges_at: int = 0) -> None:
    """Let one live to the end."""
    process = start(folder, diverges_at=diverges_at)
    process.join(120)
    assert process.exitcode == 0


def kill_at_random(folder: Path, chance: random.Random, said: Callable[[], int], *, diverges_at: int = 0) -> str:
    """Start one and kill it some events and a moment later; where that was."""
    before, events, seconds = said(), chance.randrange(12), chance.uniform(0, 0.02)
    process = start(folder, diverges_at=diverges_at)
    _wait(process, lambda: said() >= before + events)
    time.sleep(seconds)
    _kill(process)
    return f"{seconds:.3f} s after {events} more events"


def kill_inside_a_checkpoint(folder: Path, *, diverges_at: int = 0) -> str:
    """Start one and kill it between two files of the next checkpoint that it writes."""
    marker = settings().home / "faults" / INSIDE
    marker.unlink(missing_ok=True)
    process = start(folder, fault=INSIDE, diverges_at=diverges_at)
    _wait(process, lambda: marker.exists() and marker.read_text() == str(process.pid))
    _kill(process)
    assert any(not (entry / "COMPLETE").exists() for entry in (folder / "checkpoints").glob("step-*"))
    return "inside a checkpoint"


def _wait(process: BaseProcess, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive() and time.monotonic() < deadline, "it had ended; give it more epochs"
        time.sleep(0.002)


def _kill(process: BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it had ended; give it more epochs"
