"""Other tools' evals as ours, and what cannot be taken over is refused by its place."""

import json
from pathlib import Path

import pytest
import yaml

from api.eval_requests import EvalRequest
from moatelier import eval_files, evaluating
from moatelier.errors import DataError
from tests.moatelier.conftest import Command

FOO = {
    "description": "capitals",
    "prompts": [
        "What is the capital of {{country}}?",
        '[{"role": "system", "content": "Short."}, {"role": "user", "content": "{{ country }}?"}]',
    ],
    "defaultTest": {"assert": [{"type": "icontains", "value": "{{capital}}"}]},
    "tests": [
        {"vars": {"country": "France", "capital": "Paris"}},
        {"vars": {"country": "Italy", "capital": "Rome"}, "assert": [{"type": "not-equals", "value": "Roma"}]},
        {"vars": {"country": "Japan", "capital": "Tokyo"}},
    ],
}


def written(folder: Path, told: object, name: str = "foo.yaml") -> Path:
    file = folder / name
    file.write_text(json.dumps(told) if name.endswith("json") else yaml.safe_dump(told), encoding="utf-8")
    return file


def test_promptfoo_becomes_evals_that_the_api_takes(tmp_path: Path) -> None:
    found = eval_files.read(written(tmp_path, FOO))
    assert len(found) == 4  # two prompts, tests of two shapes
    for planned in found:
        EvalRequest.model_validate(planned.eval)
    first = found[0]
    assert first.messages is not None
    assert first.messages["template"] == [{"role": "user", "content": "What is the capital of {{ item.country }}?"}]
    assert [each["item"]["expected_0"] for each in first.items] == ["Paris", "Tokyo"]
    assert first.eval["testing_criteria"][0]["operation"] == "ilike"
    assert {planned.messages["template"][0]["role"] for planned in found if planned.messages} == {"user", "system"}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"tests": []}, "foo.yaml"),
        ({"tests": [{"vars": {}}], "defaultTest": {}}, "tests.0"),
        ({"tests": [{"assert": [{"type": "javascript", "value": "true"}]}]}, "tests.0.assert.1"),
        ({"tests": [{"assert": [{"type": "llm-rubric", "value": "polite"}]}]}, "tests.0.assert.1"),
        ({"prompts": ["file://../../etc/passwd"]}, "../../etc/passwd"),
    ],
)
def test_what_cannot_be_taken_over_says_where(tmp_path: Path, changes: dict[str, object], where: str) -> None:
    with pytest.raises(DataError) as refused:
        eval_files.read(written(tmp_path, FOO | changes))
    assert where in str(refused.value.where)


def test_a_rubric_is_judged_by_the_model_that_is_named(tmp_path: Path) -> None:
    rubric = {"prompts": ["Hi"], "tests": [{"assert": [{"type": "llm-rubric", "value": "is polite"}]}]}
    [planned] = eval_files.read(written(tmp_path, rubric), judge="tiny")
    [grader] = EvalRequest.model_validate(planned.eval).testing_criteria
    assert grader.type == "label_model" and grader.model == "tiny"


OPENAI = {
    "object": "eval",
    "name": "labels",
    "data_source_config": {"type": "custom", "schema": {"properties": {"item": {"type": "object"}, "sample": {}}}},
    "testing_criteria": [
        {
            "type": "string_check",
            "name": "same",
            "input": "{{ sample.output_text }}",
            "reference": "{{ item.label }}",
            "operation": "eq",
        }
    ],
}
LINES = [{"item": {"label": "a"}, "sample": {"output_text": text}} for text in ("a", "b", "a")]


def test_an_eval_of_the_openai_api_is_taken_as_it_is(tmp_path: Path) -> None:
    body = {name: told for name, told in OPENAI.items() if name != "object"}
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(line) + "\n" for line in LINES), encoding="utf-8")
    [planned] = eval_files.read(written(tmp_path, body, "eval.json"), items=items)
    EvalRequest.model_validate(planned.eval)
    assert planned.items == LINES and planned.eval["testing_criteria"] == OPENAI["testing_criteria"]
    with pytest.raises(DataError, match="no rows"):
        eval_files.read(written(tmp_path, body, "eval.json"))


def test_suites_and_tasks_of_the_harness_are_tried_here(tmp_path: Path) -> None:
    suite = tmp_path / "own.yaml"
    suite.write_text("name: own\ngroups: []\n", encoding="utf-8")
    assert all(map(evaluating.is_local, ("retention", "harness:arc_easy", str(suite))))
    assert not evaluating.is_local(str(written(tmp_path, FOO))) and not evaluating.is_local("eval.json")


def test_given_outputs_are_judged_by_the_service(command: Command, tmp_path: Path) -> None:
    file = written(tmp_path, {"eval": OPENAI | {"object": "eval"}, "items": LINES}, "eval.json")
    done = command("eval", str(file), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["passed"], told["total"]) == (2, 3)
    assert command("eval", str(file), "--least", "0.9").exit_code == 3
    refused = command("eval", str(written(tmp_path, FOO)), "--json")
    assert refused.exit_code != 0
