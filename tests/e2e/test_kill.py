"""What CI runs of the kill matrix: every process and every stage at least once (the whole: `make kill-matrix`)."""

from pathlib import Path

import pytest

from tests.e2e.kill_matrix import AWAITING, STAGES, VICTIMS, Outcome, difference, run_task

# Each stage once, each victim at least twice; the training process dies at every stage that is its own.
MIXED = {
    "planning": "worker",
    AWAITING: "supervisor",
    "curating": "api",
    "queued": "engine",
    "before the first checkpoint": "job",
    "between two checkpoints": "worker",
    "inside a checkpoint's write": "job",
    "sealing": "supervisor",
    "evaluating": "job",
    "gating, before the look": "api",
    "gating, after the look": "job",
    "gating, before the signature": "worker",
    "registering": "worker",
    "answering": "engine",
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_task(tmp_path_factory.mktemp("undisturbed"), [])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_at_every_stage_change_nothing(undisturbed: Outcome, tmp_path: Path) -> None:
    assert set(MIXED) == set(STAGES) and set(MIXED.values()) == set(VICTIMS)
    assert undisturbed.gate_decisions == undisturbed.looks == len(undisturbed.adapters) == 1
    assert not difference(undisturbed, run_task(tmp_path, MIXED.items()))
