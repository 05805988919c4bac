"""`moatelier moa` as a person uses it: a recipe from its file to its answers and its end."""

import json
from pathlib import Path
from typing import Any

import pytest

from moatelier.contracts import read_recipe
from moatelier.errors import DataError, InvalidRequest, NotFound, UpstreamError
from store import adapters, datasets, recipes
from tests.graphs.conftest import FakeJobs
from tests.graphs.planted import adapter, dataset
from tests.moatelier.conftest import Command

ROOT = Path(__file__).resolve().parent.parent.parent
PANEL = """\
name: panel
layers:
  - proposers: [{adapter: one}, {adapter: two}]
aggregator: {kind: vote}
"""


@pytest.fixture
def panel(command: Command, tmp_path: Path) -> str:
    """The recipe's file; its adapters are there, the recipe is added."""
    made_of = dataset()
    for place, name in enumerate(("one", "two")):
        adapter(name, made_of, place)
    file = tmp_path / "panel.yaml"
    file.write_text(PANEL)
    added = command("moa", "add", str(file))
    assert added.exit_code == 0, added.output
    assert "panel is draft; evaluate it: moatelier moa evaluate panel" in added.output
    return str(file)


def told(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def test_a_recipe_goes_live_and_is_stopped(command: Command, panel: str) -> None:
    done = command("moa", "evaluate", "panel")
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert "panel on 100 held-out rows (look 1 of 5)" in words and "routed stands for the router's choice" in words
    assert "gain over routing to one" in words and "panel is live" in words and "It may answer." in words
    [listed] = json.loads(command("moa", "list", "--json").stdout)
    assert (listed["name"], listed["state"]) == ("panel", "live") and "live" in command("moa", "list").stdout
    shown = command("moa", "show", "panel").stdout
    assert "proposers: [{adapter: one}, {adapter: two}]" in shown and "best single" in shown
    whole = json.loads(command("moa", "show", "panel", "--json").stdout)
    assert whole["decision"]["live"] and whole["decision"]["table"]["rows"] == 100
    assert command("moa", "disable", "panel").stdout == "panel is disabled\n"
    assert recipes.get("default", "panel").state == "disabled"
    assert json.loads(command("moa", "disable", "panel", "--json").stdout)["state"] == "disabled"


def test_a_recipe_that_is_not_worth_it_has_an_exit_status_of_its_own(
    command: Command, panel: str, jobs: FakeJobs
) -> None:
    jobs.recipe = jobs.routed
    done = command("moa", "evaluate", "panel", "--json")
    assert done.exit_code == 3
    lines = told(done.stdout)
    assert [line["kind"] for line in lines][-1] == "result" and lines[-1]["status"] == "not_reached"
    assert next(line for line in lines if line["kind"] == "table")["table"]["routed_by"] == "router"
    assert not lines[-1]["live"] and recipes.get("default", "panel").state == "disabled"


def test_rows_datasets_and_select_reach_the_job(command: Command, panel: str, jobs: FakeJobs) -> None:
    assert command("moa", "evaluate", "panel", "--select", "--rows", "40", "--dataset", "one").exit_code == 0
    [(kind, spec)] = jobs.ran
    assert (kind, spec["split"], spec["rows"]) == ("mixture", "select", 40) and len(spec["datasets"]) == 1
    assert recipes.get("default", "panel").state == "draft"
    [task] = json.loads(command("task", "list", "--json").stdout)
    assert task["request"] == "Evaluate moa/panel on select rows"
    assert "reached" in command("task", "show", task["id"]).stdout
    assert command("task", "watch", task["id"]).exit_code == 0


def test_an_exam_is_uploaded_and_asked_instead(command: Command, panel: str, jobs: FakeJobs, tmp_path: Path) -> None:
    exam = tmp_path / "exam.csv"
    exam.write_text("question,answer\nTwo and two?,4\nThree and three?,6\n")
    assert command("moa", "evaluate", "panel", "--exam", str(exam)).exit_code == 0
    [(kind, spec)] = jobs.ran
    assert kind == "mixture" and spec["datasets"] == [] and len(spec["seen"]) == 1
    assert datasets.get_file("default", spec["exam"]).name == "exam.csv"
    both = command("moa", "evaluate", "panel", "--exam", str(exam), "--dataset", "one")
    assert isinstance(both.exception, InvalidRequest) and "An exam and datasets" in str(both.exception)
    assert isinstance(command("moa", "evaluate", "panel", "--exam", str(tmp_path / "no.csv")).exception, DataError)


def test_errors_are_told_as_everywhere(command: Command, panel: str, jobs: FakeJobs, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: panel\nlayers: []\naggregator: {kind: vote}\n")
    assert isinstance(command("moa", "add", str(bad)).exception, InvalidRequest)
    assert isinstance(command("moa", "add", str(tmp_path / "none.yaml")).exception, InvalidRequest)
    bad.write_bytes(b"\xff\xfe\x00name")
    assert isinstance(command("moa", "add", str(bad)).exception, InvalidRequest)
    for words in (["evaluate"], ["show"], ["disable"], ["train-aggregator"]):
        assert isinstance(command("moa", *words, "panle").exception, NotFound), words
    assert isinstance(command("moa", "evaluate", "panel", "--dataset", "nothing").exception, NotFound)
    assert command("moa", "evaluate", "panel", "--rows", "0").exit_code == 2
    jobs.fail["mixture"] = UpstreamError("The engine is gone.", remedy="Start it.")
    failed = command("moa", "evaluate", "panel")
    assert isinstance(failed.exception, UpstreamError) and "The engine is gone." in str(failed.exception)


def test_an_aggregator_is_trained_as_an_ordinary_task(command: Command, panel: str, jobs: FakeJobs) -> None:
    done = command("moa", "train-aggregator", "panel", "--yes")
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert "60 rows; on 90.0% of them some proposal is right" in words and "panel-aggregator" in words
    kinds = [kind for kind, _ in jobs.ran]
    assert kinds[0] == "candidates" and {"train", "evaluate", "gate"} <= set(kinds)
    made = adapters.get("default", "panel-aggregator")
    assert made.manifest.kind == "chat" and made.manifest.spec.suffix == "panel-aggregator"
    request = [line["request"] for line in json.loads(command("task", "list", "--json").stdout)]
    assert "Make the rows for the aggregator of moa/panel" in request


def test_the_plan_of_an_aggregator_is_approved_by_a_person(command: Command, panel: str, jobs: FakeJobs) -> None:
    asked = command("moa", "train-aggregator", "panel", "--goal", "at least 70% exact match")
    assert asked.exit_code == 2 and "moatelier task answer" in asked.output and "70.0%" in asked.output
    assert "train" not in [kind for kind, _ in jobs.ran]


@pytest.mark.parametrize("file", sorted((ROOT / "examples" / "recipes").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_examples_are_recipes(file: Path) -> None:
    recipe = read_recipe(file.read_text(encoding="utf-8"))
    assert recipe.summary and recipe.layers
