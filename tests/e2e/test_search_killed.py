"""A search whose processes die by SIGKILL, early and late: no trial is lost or doubled, and every move is the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import fakes
from tests.e2e.harness import Service, wait_for
from tests.e2e.kill_matrix import Outcome, _outcome, difference

REQUEST = (
    "Train a classifier that predicts intent from message, at least 5% accuracy, search over ranks 4 and 8 and "
    "learning rates 1e-3, 2e-3 and 4e-3, 3 trials, within 60 minutes."
)
EARLY = {
    "node.searching": "worker",
    "train.enqueued": "api",
    "train.before_first_checkpoint": "job",
    "checkpoint.inside": "job",
    "train.between_checkpoints": "worker",
    "train.sealing": "supervisor",
}
"""Where the processes of the first trial die, and who."""
LATE = {"train.before_first_checkpoint": "job", "node.searching": "supervisor"}
"""The same once trials go on from their checkpoints."""


def searched(folder: Path, *, kills: bool) -> tuple[Outcome, list[dict[str, Any]]]:
    """The outcome of a task that searches, and what was told of its legs, but for times."""
    with Service(folder, MOATELIER_FAULT=",".join(EARLY) if kills else "") as service:
        thread, task = service.begin(fakes.support_csv(folder / "support.csv", rows_per_intent=100), REQUEST)
        service.approve(thread)
        if kills:
            for fault, victim in EARLY.items():
                service.kill_at(fault, victim)
            wait_for("trials that go on", lambda: len(legs(service, task)) >= 3, 300)
            for fault, victim in LATE.items():
                for name in (fault, f"{fault}.go"):
                    (service.home / "faults" / name).unlink(missing_ok=True)  # armed again
                service.kill_at(fault, victim)
        ended = service.end(task, 600)
        assert not list((service.home / "jobs").glob("*/checkpoints"))
        return _outcome(service, ended), legs(service, task)


def legs(service: Service, task: str) -> list[dict[str, Any]]:
    found = service.call("GET", f"/tasks/{task}/events?limit=500")["data"]
    after = 0
    told: list[dict[str, Any]] = []
    while found:
        told += [event["body"] for event in found if event["kind"] == "trial"]
        after = found[-1]["id"]
        found = service.call("GET", f"/tasks/{task}/events?limit=500&after={after}")["data"]
    return [{name: value for name, value in body.items() if name != "seconds"} for body in told]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_in_a_search_lose_and_double_nothing(tmp_path: Path) -> None:
    undisturbed, expected = searched(tmp_path / "undisturbed", kills=False)
    assert undisturbed.status == "reached" and undisturbed.gate_decisions == undisturbed.looks == 1
    assert [leg["rung"] for leg in expected] == [1] * 3 + [2]
    killed, got = searched(tmp_path / "killed", kills=True)
    assert json.dumps(got) == json.dumps(expected)
    assert not difference(undisturbed, killed)
