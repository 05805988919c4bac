"""One training in two processes: the weights of one, one set of files, and no process left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from moatelier.errors import InvalidRequest
from tests.training.rows import dataset, rows, spec
from training.ranks import Ranks

OWN = [sys.executable, "-m", "training.run"]
LAUNCHED = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "training.run",
]


def start(
    home: Path, name: str, fields: Any, command: list[str] = OWN, processes: int = 1, fault: str = ""
) -> subprocess.Popen[bytes]:
    folder = home / "jobs" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(fields.model_dump_json())
    environment = {**os.environ, "MOATELIER_TRAINING_PROCESSES": str(processes), "MOATELIER_FAULT": fault}
    line = [*command, "--spec", str(folder / "spec.json"), "--folder", str(folder), "--quiet"]
    return subprocess.Popen(line, env=environment, start_new_session=True)


def finish(home: Path, name: str, *started: Any, **options: Any) -> dict[str, Any]:
    assert start(home, name, *started, **options).wait(150) == 0
    return dict(json.loads((home / "jobs" / name / "result.json").read_text()))


def weights(home: Path, result: dict[str, Any]) -> dict[str, torch.Tensor]:
    return load_file(home / "adapters" / result["bundle"] / "adapter_model.safetensors")


@pytest.mark.slow
def test_two_processes_learn_the_weights_of_one(home: Path, tiny: str) -> None:
    # 5 rows in the last batch of an epoch and 9 dev rows: the shares are uneven.
    fields = spec(dataset(rows(29), rows(9, start=29)), learning_rate=1e-4)
    one, two = finish(home, "one", fields), finish(home, "two", fields, processes=2)
    for curve in ("curve", "dev_curve"):
        assert dict(two[curve]) == pytest.approx(dict(one[curve]), abs=1e-5)
    ours, theirs = weights(home, two), weights(home, one)
    difference = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
    print(f"largest difference of a weight: {difference:.2g}")
    assert difference < 1e-6 and two["tokens"] == one["tokens"]
    lines = (home / "jobs" / "two" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if '"progress"' in line] == list(range(1, 11))


@pytest.mark.slow
def test_a_launcher_gives_the_very_bits_of_our_own_processes(home: Path, tiny: str) -> None:
    fields = spec(dataset(rows(30), rows(9, start=30)))
    ours = finish(home, "ours", fields, processes=2)
    assert finish(home, "theirs", fields, LAUNCHED)["bundle"] == ours["bundle"]


@pytest.mark.slow
def test_killed_it_leaves_no_process_and_ends_with_the_same_bits(home: Path, tiny: str) -> None:
    fields = spec(dataset(rows(30), rows(9, start=30)), dropout=0.1)
    whole = finish(home, "whole", fields, processes=2)
    (home / "adapters" / whole["bundle"]).rename(home / "kept")
    process = start(home, "killed", fields, processes=2, fault="checkpoint.inside")
    marker, deadline = home / "faults" / "checkpoint.inside", time.monotonic() + 120
    while not marker.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    (other,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)  # it alone, as the kernel would
    process.wait()
    other.wait(60)
    killed = finish(home, "killed", fields, processes=2)
    assert (killed["curve"], killed["bundle"]) == (whole["curve"], whole["bundle"])


def test_rows_that_are_compared_with_each_other_stay_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks()
    objective: Any = SimpleNamespace(indivisible=True)
    ranks.need_parts(objective)
    monkeypatch.setattr(ranks, "_count", 2)
    with pytest.raises(InvalidRequest, match="compared with each other"):
        ranks.need_parts(objective)


def test_every_row_is_in_one_share(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, shares = Ranks(), []
    assert ranks.share([3, 1, 2]) == [3, 1, 2]
    for number in range(4):
        monkeypatch.setattr(ranks, "_count", 4)
        monkeypatch.setattr(ranks, "number", number)
        shares.append(list(ranks.share([5, 3, 1])))
    assert sorted(row for share in shares for row in share) == [1, 3, 5] and [] in shares
