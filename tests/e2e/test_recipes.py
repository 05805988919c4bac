"""A recipe's evaluation in real processes, on a tiny random model: jobs, queues, the engine, and a SIGKILL."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from store import datasets as kept
from store import looks, recipes, records
from tests.e2e.harness import Service, prepared, wait_for
from tests.graphs.planted import dataset

RECIPE = """\
name: self
layers:
  - proposers: [{base: true, samples: 3, temperature: 0.9}]
    quorum: 3
aggregator: {kind: vote}
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose store holds a curated dataset, and whose first evaluation stops right after its look."""
    folder = tmp_path_factory.mktemp("recipes")
    made = Service(folder, MOATELIER_FAULT="mixture.after_look")
    with prepared(made):
        dataset(test=24)
        with made:
            yield made


@pytest.fixture
def command(service: Service) -> Run:
    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        line = [sys.executable, "-m", "moatelier.cli", *words]
        return subprocess.run(line, env=service.environment, capture_output=True, text=True, timeout=240, check=False)

    return run


def told(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_evaluation_goes_on_and_takes_one_look(service: Service, command: Run, tmp_path: Path) -> None:
    file = tmp_path / "self.yaml"
    file.write_text(RECIPE)
    added = command("moa", "add", str(file), "--json")
    assert added.returncode == 0, added.stderr
    line = [sys.executable, "-m", "moatelier.cli", "moa", "evaluate", "self", "--dataset", "task-desk", "--json"]
    following = subprocess.Popen(line, env=service.environment, stdout=subprocess.PIPE, text=True)
    marker = service.home / "faults" / "mixture.after_look"
    wait_for("the job to have taken its look", lambda: marker.exists() and marker.read_text(), timeout_s=200)
    os.kill(int(marker.read_text()), signal.SIGKILL)
    output, _ = following.communicate(timeout=240)
    lines = told(output)
    assert following.returncode == 3, (output, service.log.read_text())
    table = next(one for one in lines if one["kind"] == "table")
    assert table["table"]["rows"] == 24 and [look["number"] for look in table["looks"]] == [1]
    card = kept.get_card(kept.list_cards("default")[0])
    assert looks.looks_taken("default", card.locked) == 1
    recipe = recipes.get("default", "self")
    assert recipe.state == "disabled" and "not shown to be worth its calls" in recipe.reason
    assert records.get("default", "mixture_decision", str(recipe.record)).subject == recipe.digest
    refused = command("chat", "-m", "moa/self", "hello")
    assert refused.returncode == 1 and "conflict" in refused.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_candidates_are_made_and_their_plan_is_shown(service: Service, command: Run) -> None:
    made = command("moa", "train-aggregator", "self", "--dataset", "task-desk", "--json")
    assert made.returncode == 2, made.stderr  # the plan waits for a person
    lines = told(made.stdout)
    assert next(one for one in lines if one["kind"] == "result")["rows"] == 40
    plan = next(one for one in lines if one["kind"] == "approval")["plan"]
    assert plan["name"] == "self-aggregator" and plan["kind"]["value"] == "chat"
    assert plan["columns"]["value"]["group"] == "group"
