"""`moatelier import-openai`: a folder of what an account had is there afterwards, under its own ids."""

import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moatelier import importing
from moatelier.client import Client
from moatelier.errors import DataError
from tests.conformance.serving import Whole, chat_file, until

JOB = {
    "object": "fine_tuning.job",
    "id": "ftjob-abc123",
    "created_at": 1700000000,
    "finished_at": 1700001000,
    "model": "gpt-4o-mini-2024-07-18",
    "fine_tuned_model": "ft:gpt-4o-mini-2024-07-18:acme:depot:9abc",
    "organization_id": "org-1",
    "result_files": ["file-results"],
    "status": "succeeded",
    "training_file": "file-train",
    "validation_file": None,
    "seed": 5,
    "hyperparameters": {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8},
    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    "trained_tokens": 5000,
    "error": None,
}
CHECK = {"type": "string_check", "name": "right", "operation": "eq", "input": "{{item.a}}", "reference": "{{item.b}}"}
EVAL = {
    "object": "eval",
    "id": "eval-1",
    "name": "shop",
    "created_at": 1700000000,
    "metadata": {},
    "data_source_config": {"type": "custom", "schema": {"type": "object", "properties": {"item": {"type": "object"}}}},
    "testing_criteria": [CHECK | {"id": "right-123"}],
}
RUN = {
    "object": "eval.run",
    "id": "evalrun-1",
    "eval_id": "eval-1",
    "status": "completed",
    "name": "first",
    "model": "gpt-4o",
    "data_source": {"type": "jsonl", "source": {"type": "file_id", "id": "file-rows"}},
    "result_counts": {"total": 2, "passed": 1, "failed": 1, "errored": 0},
    "per_testing_criteria_results": [{"testing_criteria": "right", "passed": 1, "failed": 1}],
    "per_model_usage": [],
}
ITEM = {
    "object": "eval.run.output_item",
    "id": "outputitem_1",
    "eval_id": "eval-1",
    "run_id": "evalrun-1",
    "datasource_item_id": 1,
    "datasource_item": {"a": "x", "b": "x"},
    "status": "pass",
    "results": [{"name": "right", "score": 1.0, "passed": True}],
    "sample": {"output": [{"role": "assistant", "content": "x"}]},
}


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    (folder / "files").mkdir(parents=True)
    chat_file(folder / "files" / "file-train.jsonl")
    (folder / "files" / "depots.csv").write_text("a,b\n1,2\n")
    told: list[dict[str, Any]] = [
        {"object": "file", "id": "file-train", "filename": "parcels.jsonl", "purpose": "fine-tune"},
        {"object": "file", "id": "file-results", "filename": "metrics.csv", "purpose": "fine-tune-results"},
    ]
    (folder / "files.json").write_text(json.dumps({"object": "list", "data": told}))
    stored = JOB | {"id": "ftjob-open", "status": "running"}
    (folder / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in (JOB, stored)))
    python = EVAL | {"id": "eval-2", "testing_criteria": [{"type": "python", "name": "p", "source": "..."}]}
    (folder / "evals.json").write_text(json.dumps([EVAL, python, RUN, ITEM]))
    (folder / "readme.json").write_text("not JSON")
    return folder


@pytest.fixture
def cli(whole: Whole) -> Iterator[Client]:
    client = Client(whole.url, whole.key)
    with client.http:
        yield client


def test_everything_is_there_under_its_own_id_and_what_is_not_is_told_with_the_reason(
    whole: Whole, cli: Client, export: Path
) -> None:
    outcome = importing.run(cli, export)
    assert {kind: len(ids) for kind, ids in outcome.took.items()} == {
        "file": 2,
        "fine_tuning.job": 1,
        "eval": 1,
        "eval.run": 1,
        "eval.run.output_item": 1,
    }
    left = dict(outcome.left)
    assert set(left) == {"readme.json", "file-results", "ftjob-open", "eval-2"}
    assert "bytes" in left["file-results"] and "running" in left["ftjob-open"] and "python" in left["eval-2"]
    file = whole.client.files.retrieve("file-train")
    assert (file.filename, file.purpose) == ("parcels.jsonl", "fine-tune")
    job = whole.client.fine_tuning.jobs.retrieve("ftjob-abc123")
    assert (job.status, job.fine_tuned_model, job.seed) == ("succeeded", JOB["fine_tuned_model"], 5)
    assert whole.client.evals.retrieve("eval-1").testing_criteria[0].name == "right"
    run = whole.lenient.evals.runs.retrieve("evalrun-1", eval_id="eval-1")
    assert (run.result_counts.passed, run.status) == (1, "completed")
    (item,) = whole.lenient.evals.runs.output_items.list("evalrun-1", eval_id="eval-1").data
    assert (item.status, item.datasource_item) == ("pass", {"a": "x", "b": "x"})


def test_taking_it_again_changes_nothing_and_a_zip_is_as_good_as_a_folder(
    whole: Whole, cli: Client, export: Path, tmp_path: Path
) -> None:
    first = importing.run(cli, export)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for path in export.rglob("*"):
            archive.write(path, path.relative_to(export))
    again = importing.run(cli, tmp_path / "export.zip")
    assert again.took == first.took and len(again.left) == len(first.left)
    assert len(whole.client.files.list().data) == 2
    assert [job.id for job in whole.client.fine_tuning.jobs.list()] == ["ftjob-abc123"]
    assert len(whole.client.evals.list().data) == 1


def test_jobs_can_be_trained_here_too_each_once(whole: Whole, cli: Client, export: Path) -> None:
    (started,) = importing.run(cli, export, train="tiny").took["training"]
    assert "training" not in importing.run(cli, export, train="tiny").took
    look = whole.client.fine_tuning.jobs.retrieve
    done = until(lambda: look(started), lambda job: job.status in ("succeeded", "failed"))
    assert done.status == "succeeded" and done.fine_tuned_model.startswith("ft:tiny:depot:")
    assert next(spec for kind, spec in whole.jobs.ran if kind == "train")["epochs"] == 2
    assert whole.client.fine_tuning.jobs.list(metadata={"imported_from": "ftjob-abc123"}).data[0].id == started


def test_what_was_taken_and_what_not_is_told(
    cli: Client, export: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importing.console, "file", sys.stdout)
    outcome = importing.run(cli, export)
    importing.tell(outcome, as_json=False)
    told = capsys.readouterr().out
    assert "took 2 files" in told and "not taken: file-results: its bytes are not in the folder" in told
    importing.tell(outcome, as_json=True)
    assert json.loads(capsys.readouterr().out)["took"]["eval"] == ["eval-1"]


def test_a_folder_with_nothing_of_the_kind_is_refused(cli: Client, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="Nothing"):
        importing.run(cli, tmp_path / "empty")
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match="neither"):
        importing.run(cli, tmp_path / "a.txt")


def test_an_import_touches_no_task_of_this_service_and_no_other_project(whole: Whole, cli: Client) -> None:
    file = whole.client.files.create(file=("a.jsonl", b"{}"), purpose="fine-tune")
    own = whole.client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    failed = until(lambda: whole.client.fine_tuning.jobs.retrieve(own.id), lambda job: job.status == "failed")
    with pytest.raises(Exception, match="A task of this service"):
        cli.call("POST", "/imports/openai", json=JOB | {"id": own.id})
    assert whole.client.fine_tuning.jobs.retrieve(own.id) == failed
