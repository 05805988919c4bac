"""A task in MLflow: its plan, numbers, artifacts and model, in a store of this machine."""

import json
from pathlib import Path
from typing import Any

import pytest

from moatelier import mlflow_export
from store import events
from tests import fakes
from tests.graphs.test_routing import pulled as pulled
from tests.moatelier.conftest import Command

REQUEST = "Train a classifier that predicts intent from message, at least 80% accuracy, at most 1 trial"
mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")
"""MLflow's own about itself."""


@pytest.fixture
def task(command: Command, tmp_path: Path) -> dict[str, Any]:
    file = str(fakes.support_csv(tmp_path / "support.csv"))
    assert command("task", REQUEST, "--file", file, "--yes").exit_code == 0
    [found] = json.loads(command("task", "list", "--json").stdout)
    return dict(found)


def test_a_task_becomes_runs_and_a_model_version_once(
    command: Command, task: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts
    to = f"sqlite:///{tmp_path / 'mlflow.db'}"
    done = command("export-mlflow", task["id"], "--to", to, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    client = mlflow.MlflowClient(tracking_uri=to, registry_uri=to)
    run = client.get_run(told["run"])
    assert run.info.status == "FINISHED"
    assert run.data.params["method"] == task["plan"]["method"]["value"]
    assert run.data.metrics["lower_bound"] == pytest.approx(task["result"]["lower_bound"])
    assert {item.path for item in client.list_artifacts(told["run"])} == {"adapter", "report"}
    assert "adapter/manifest.json" in {item.path for item in client.list_artifacts(told["run"], "adapter")}
    champion = client.get_model_version_by_alias(told["model"], "champion")
    assert str(champion.version) == told["version"] == "1"
    assert champion.tags[mlflow_export.ADAPTER] == task["result"]["adapter"]
    children = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{told['run']}'")
    trained = {event.job for event in events.read("default", task=task["id"]) if event.body.get("phase") == "train"}
    assert {child.data.tags[mlflow_export.JOB] for child in children} == trained
    assert REQUEST not in json.dumps([run.to_dictionary(), *(child.to_dictionary() for child in children)])
    again = json.loads(command("export-mlflow", task["id"], "--to", to, "--json").stdout.splitlines()[-1])
    assert again == told | {"before": True}


def test_what_cannot_be_exported_says_why(command: Command, tmp_path: Path) -> None:
    file = str(fakes.support_csv(tmp_path / "support.csv"))
    command("task", "start", "make it better", "--file", file)
    [found] = json.loads(command("task", "list", "--json").stdout)
    open_ = command("export-mlflow", found["id"], "--to", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert open_.exit_code == 1 and "has not ended" in str(open_.exception)


def test_plans_are_told_without_their_provenance() -> None:
    plan = {
        "name": "intents",
        "method": {"value": "lora", "source": "default", "confidence": 1.0, "reason": ""},
        "goal": {"value": {"metric": "accuracy", "target": 0.8}, "source": "user", "confidence": 1.0, "reason": "x"},
        "limits": None,
    }
    found = mlflow_export.parameters(plan)
    assert found == {"name": "intents", "method": "lora", "goal": '{"metric": "accuracy", "target": 0.8}'}


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mlflow_export.import_module.__globals__["sys"].modules, "mlflow", None)
    with pytest.raises(mlflow_export.InvalidRequest, match=r"moatelier\[mlflow\]"):
        mlflow_export.tracking()
