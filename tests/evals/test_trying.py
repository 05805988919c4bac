"""`moatelier eval` on this machine: an own suite, and a task of the harness on our engine."""

import json
from pathlib import Path

import pytest

from evals import suite, trying
from modalities.bundle import bundle_folder, read_manifest
from store import adapters
from tests.evals.conftest import Curated, Train

OWN = """
name: own
kind: own
about: Made for this test.
licence: Apache-2.0
groups:
  - {axis: words, how: choice, items: [[parcel, order, card], [order, card, refund]]}
  - {axis: answers, how: answer, items: [[where is my order, zzzz]]}
  - {axis: language, how: text, items: [where is my order please]}
"""


def test_an_adapter_and_its_base_are_tried_on_a_file(
    curated: Curated, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = train()
    record = adapters.register("default", read_manifest(bundle_folder(bundle)), "task-1")
    file = tmp_path / "own.yaml"
    file.write_text(OWN, encoding="utf-8")
    status = trying.main(["--model", record.model_id, "--suite", str(file), "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["suite"] == "own" and set(told["subjects"]) == {"base", record.model_id}
    assert told["subjects"]["base"]["axes"]["answers"]["point"] == 0.0 and told["subjects"]["base"]["loss"] > 0
    assert status == (0 if told["condition"]["held"] else trying.WORSE)
    assert "own, 4 items" in trying.shown(told)


def test_what_is_not_there_is_told(curated: Curated, capsys: pytest.CaptureFixture[str]) -> None:
    assert trying.main(["--model", "nobody", "--suite", "retention", "--json"]) == 1
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "not_found"
    assert trying.main(["--model", "tiny", "--suite", "nothing"]) == 1


def test_a_suite_of_choices_is_weighed_by_the_base(tiny: str) -> None:
    told = trying.tried(suite.read(OWN, "own"), "tiny")
    assert set(told["subjects"]) == {"base"} and "condition" not in told


def test_rows_are_measured(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    given = {"question": "where is my card", "chunks": ["my card is broken. my order has come."], "answer": "broken"}
    lines = [given | {"reference": "broken card."}, {"question": "where is my parcel"}]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert trying.main(["--model", "tiny", "--measures", str(rows), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert first["perplexity"] > 1 and first["prompt_perplexity"] > 1 and first["token_entropy"] > 0
    assert first["context_relevance"] == 0.5 and first["first_chunk"] == 0 and first["completeness"] == 1
    assert 0 <= second["self_consistency"] <= 1 and "attribution" not in second
    rows.write_text("\n", encoding="utf-8")
    assert trying.main(["--measures", str(rows)]) == 1
    assert "no rows" in capsys.readouterr().err


TASK = """
task: ours
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{ask}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
metric_list: [{metric: acc}]
"""


def test_a_task_of_the_harness_runs_on_our_engine(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason="the extra `harness` is not installed")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    docs = tmp_path / "docs.jsonl"
    rows = [{"ask": f"where is my {word}", "choices": [" order", " refund"]} for word in ("card", "parcel", "system")]
    docs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "ours.yaml").write_text(TASK % docs, encoding="utf-8")
    status = trying.main(["--model", "tiny", "--harness", "ours", "--include", str(tasks), "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert status == 0 and told["n-samples"]["ours"]["effective"] == 3
    assert 0 <= told["results"]["ours"]["acc,none"] <= 1
    assert trying.main(["--model", "tiny", "--harness", "no_such_task", "--json"]) == 1
    assert "no_such_task" in json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["what"]
