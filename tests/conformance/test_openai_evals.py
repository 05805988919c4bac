"""`evals`, runs and output items by the openai package; the models asked are those of the service."""

import json
from typing import Any

import httpx
import openai
import pytest

from graphs import grading, jobs
from store import stored_evals
from tests.conformance.serving import Whole, until

SCHEMA = {"type": "object", "properties": {"asked": {"type": "string"}, "right": {"type": "string"}}}
SCHEMA["required"] = ["asked", "right"]
SAID = "{{ sample.output_text }}"
CHECK = {"type": "string_check", "name": "holds", "operation": "like", "input": SAID, "reference": "{{ item.right }}"}
ROWS = [{"item": {"asked": f"is {word} there", "right": word}} for word in ("tea", "milk", "bread", "salt")]
TEMPLATE = {"type": "template", "template": [{"role": "user", "content": "{{ item.asked }}?"}]}


def create(whole: Whole, *criteria: dict[str, Any], **more: Any) -> Any:
    config = {"type": "custom", "item_schema": SCHEMA, "include_sample_schema": True}
    return whole.client.evals.create(
        data_source_config=config,  # type: ignore[arg-type]
        testing_criteria=list(criteria) or [CHECK],  # type: ignore[arg-type]
        **more,
    )


def given(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "file_content", "content": rows}


def start(whole: Whole, eval_id: str, source: dict[str, Any], **more: Any) -> Any:
    return whole.lenient.evals.runs.create(eval_id, data_source=source, **more)  # type: ignore[arg-type]


def ended(whole: Whole, run: Any) -> Any:
    look = lambda: whole.lenient.evals.runs.retrieve(run.id, eval_id=run.eval_id)  # noqa: E731
    return until(look, lambda found: found.status not in ("queued", "in_progress"))


def items(whole: Whole, run: Any, **more: Any) -> list[Any]:
    return list(whole.lenient.evals.runs.output_items.list(run.id, eval_id=run.eval_id, **more))


def test_an_eval_is_kept_changed_listed_and_deleted(whole: Whole) -> None:
    made = create(whole, name="shop", metadata={"team": "post"})
    assert made.data_source_config.schema_["properties"]["item"] == SCHEMA
    assert made.testing_criteria[0].name == "holds" and whole.client.evals.retrieve(made.id).to_dict() == made.to_dict()
    changed = whole.client.evals.update(made.id, name="market")
    assert (changed.name, changed.metadata) == ("market", {"team": "post"})
    second = create(whole)
    assert [each.id for each in whole.client.evals.list(limit=1)] == [made.id, second.id]
    assert [each.id for each in whole.client.evals.list(order="desc")] == [second.id, made.id]
    assert whole.client.evals.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        whole.client.evals.retrieve(made.id)


def test_a_served_model_is_asked_and_its_answers_are_graded(whole: Whole) -> None:
    made = create(whole)
    wrong = {"item": {"asked": "is there tea", "right": "coffee"}}
    source = {"type": "completions", "model": "tiny", "input_messages": TEMPLATE, "source": given([*ROWS, wrong])}
    run = start(whole, made.id, source | {"sampling_params": {"temperature": 0.2, "max_completion_tokens": 9}})
    assert run.status in ("queued", "in_progress", "completed")
    done = ended(whole, run)
    assert done.status == "completed" and done.error is None
    assert done.result_counts.to_dict() == {"total": 5, "passed": 4, "failed": 1, "errored": 0}
    assert done.per_testing_criteria_results[0].to_dict() == {"testing_criteria": "holds", "passed": 4, "failed": 1}
    assert (done.per_model_usage[0].invocation_count, done.per_model_usage[0].total_tokens) == (5, 25)
    asked = whole.engine.requests[0]
    assert (asked["temperature"], asked["max_completion_tokens"]) == (0.2, 9)
    (failed,) = items(whole, run, status="fail")
    assert failed.datasource_item["right"] == "coffee" and failed.sample.output[0].content == "tiny: is there tea?"
    assert len(items(whole, run, limit=2)) == 5, "in pages"
    one = whole.lenient.evals.runs.output_items.retrieve(failed.id, eval_id=made.id, run_id=run.id)
    assert one.to_dict() == failed.to_dict() and one.results[0].score == 0.0


def test_given_outputs_are_graded_by_several_criteria_without_asking_anybody(whole: Whole) -> None:
    alike = {"type": "text_similarity", "name": "alike", "evaluation_metric": "fuzzy_match", "pass_threshold": 0.8}
    alike |= {"input": SAID, "reference": "{{ item.right }}"}
    made = create(whole, CHECK, alike)
    samples = [{"output_text": "tea"}, {"output_text": "milk, of course, as ever"}, {"output_text": "brea"}]
    rows = [row | {"sample": sample} for row, sample in zip(ROWS, samples, strict=False)]
    done = ended(whole, start(whole, made.id, {"type": "jsonl", "source": given(rows)}))
    told = {each.testing_criteria: (each.passed, each.failed) for each in done.per_testing_criteria_results}
    assert told == {"holds": (2, 1), "alike": (2, 1)} and done.result_counts.passed == 1
    assert whole.engine.requests == []
    scores = {result.name: result.score for result in items(whole, done)[2].results}
    assert scores["alike"] == pytest.approx(2 * 4 / 9, abs=1e-6)


def test_rows_come_from_an_uploaded_file(whole: Whole) -> None:
    lines = "".join(json.dumps(row | {"sample": {"output_text": row["item"]["right"]}}) + "\n" for row in ROWS)
    file = whole.lenient.files.create(file=("rows.jsonl", lines.encode()), purpose="evals")
    made = create(whole)
    done = ended(whole, start(whole, made.id, {"type": "jsonl", "source": {"type": "file_id", "id": file.id}}))
    assert done.result_counts.passed == 4


def test_models_grade_by_label_and_by_score(whole: Whole) -> None:
    # the fake engine says what it was asked last, so the items say what the grading model will say
    label = {"type": "label_model", "name": "tone", "model": "tiny", "labels": ["kind", "rude"]}
    label |= {"passing_labels": ["kind"], "input": [{"role": "user", "content": "{{ item.asked }}"}]}
    score = {"type": "score_model", "name": "worth", "model": "tiny", "range": [0, 10], "pass_threshold": 7}
    score |= {"input": [{"role": "developer", "content": "Rate."}, {"role": "user", "content": "{{ item.right }}"}]}
    made = create(whole, label, score)
    rows = [
        {"item": {"asked": asked, "right": right}} for asked, right in (("kind", "9"), ("rude", "9"), ("kind", "2"))
    ]
    rows.append({"item": {"asked": "neither", "right": "9"}})
    done = ended(whole, start(whole, made.id, {"type": "jsonl", "source": given(rows)}))
    assert done.result_counts.to_dict() == {"total": 4, "passed": 1, "failed": 2, "errored": 1}
    found = items(whole, done)
    assert [item.status for item in found] == ["pass", "fail", "fail", "error"]
    assert found[0].results[1].score == 9 and "labels" in found[3].sample.error.message


def test_texts_are_compared_by_their_vectors(whole: Whole) -> None:
    near = {"type": "text_similarity", "name": "near", "evaluation_metric": "cosine", "pass_threshold": 0.6}
    made = create(whole, near | {"input": "{{ item.asked }}", "reference": "{{ item.right }}"})
    pairs = [("red wool coat", "coat red wool"), ("red wool coat", "seven blue boats")]
    rows = [{"item": {"asked": asked, "right": right}} for asked, right in pairs]
    done = ended(whole, start(whole, made.id, {"type": "jsonl", "source": given(rows)}))
    assert (done.result_counts.passed, done.result_counts.failed) == (1, 1)
    assert items(whole, done)[0].results[0].score == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("own_path", [False, True])
def test_a_run_is_cancelled_and_asks_nothing_more(whole: Whole, own_path: bool) -> None:
    made = create(whole)
    slow = [{"item": {"asked": "slow", "right": str(number)}} for number in range(30)]
    exact = {"type": "template", "template": [{"role": "user", "content": "{{ item.asked }}"}]}
    run = start(
        whole, made.id, {"type": "completions", "model": "tiny", "input_messages": exact, "source": given(slow)}
    )
    until(lambda: len(whole.engine.requests), lambda asked: asked > 0)
    if own_path:
        cancelled = whole.lenient.post(f"/evals/{made.id}/runs/{run.id}", cast_to=object)
        assert isinstance(cancelled, dict) and cancelled["status"] == "canceled"
    else:
        assert whole.lenient.evals.runs.cancel(run.id, eval_id=made.id).status == "canceled"
    with pytest.raises(openai.BadRequestError):
        whole.lenient.evals.runs.cancel(run.id, eval_id=made.id)
    assert len(whole.engine.requests) <= grading.AT_ONCE
    assert whole.client.evals.runs.delete(run.id, eval_id=made.id).deleted
    with pytest.raises(openai.NotFoundError):
        whole.lenient.evals.runs.retrieve(run.id, eval_id=made.id)


def test_the_runs_of_an_eval_are_listed_in_pages_and_by_status(whole: Whole) -> None:
    made, other = create(whole), create(whole)
    done = [ended(whole, start(whole, made.id, {"type": "jsonl", "source": given(ROWS[:1])})).id for _ in range(3)]
    broken = ended(whole, start(whole, made.id, {"type": "jsonl", "source": given([{"item": {}}])})).id
    start(whole, other.id, {"type": "jsonl", "source": given(ROWS[:1])})
    runs = whole.lenient.evals.runs
    assert [run.id for run in runs.list(made.id, limit=2)] == [*done, broken]
    assert [run.id for run in runs.list(made.id, order="desc")] == [broken, *done[::-1]]
    assert [run.id for run in runs.list(made.id, status="failed")] == [broken]
    assert [run.id for run in runs.list(made.id, after=done[1]).data] == [done[2], broken]
    with pytest.raises(openai.NotFoundError):
        runs.list("eval-none")


def test_a_killed_worker_goes_on_with_what_is_left(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    made = create(whole)
    monkeypatch.setattr(jobs, "submit_run", lambda _: None)  # nobody takes it yet
    source = {"type": "completions", "model": "tiny", "input_messages": TEMPLATE, "source": given(ROWS)}
    run = start(whole, made.id, source)
    found = stored_evals.find_run(run.id)
    assert found is not None
    done = {"item": ROWS[0]["item"], "sample": None, "results": [], "error": None}
    stored_evals.add_item(found, 0, True, done)  # judged by a worker that was killed then
    state = {"run": "r", "project": "default", "stream": f"{run.id}-thread", "eval_run": run.id}
    grading.grade(state)  # type: ignore[arg-type]
    assert len(whole.engine.requests) == 3 and len(stored_evals.judged(run.id)) == 4


def test_a_run_that_cannot_be_read_fails_and_says_which_item(whole: Whole) -> None:
    made = create(whole)
    done = ended(whole, start(whole, made.id, {"type": "jsonl", "source": given([ROWS[0], {"item": {"asked": 3}}])}))
    assert done.status == "failed" and done.error.code == "data_error" and "item 2" in done.error.message
    other = ended(whole, start(whole, made.id, {"type": "jsonl", "source": given([ROWS[0]])}))
    assert other.result_counts.errored == 1, "without a model and without an output there is nothing to compare"


@pytest.mark.parametrize(
    ("source", "param"),
    [
        ({"type": "jsonl", "source": {"type": "file_id", "id": "file-none"}}, "data_source.source.id"),
        ({"type": "completions", "model": "ft:none", "source": given(ROWS)}, "data_source.model"),
        ({"type": "completions", "source": {"type": "stored_completions"}}, "data_source"),
    ],
)
def test_a_run_over_nothing_is_refused(whole: Whole, source: Any, param: str) -> None:
    made = create(whole)
    with pytest.raises(openai.BadRequestError) as refused:
        start(whole, made.id, source)
    assert str(refused.value.param).startswith(param)


@pytest.mark.parametrize(
    "criteria",
    [
        [],
        [CHECK, CHECK],
        [{"type": "python", "name": "p", "source": "def grade(a, b): return 1.0"}],
        [{"type": "text_similarity", "name": "t", "evaluation_metric": "bleu", "input": "a", "reference": "b"}],
    ],
)
def test_criteria_that_cannot_judge_are_refused(whole: Whole, criteria: Any) -> None:
    config = {"type": "custom", "item_schema": SCHEMA}
    with pytest.raises(openai.BadRequestError):
        whole.client.evals.create(data_source_config=config, testing_criteria=criteria)  # type: ignore[arg-type]


def test_a_grader_is_tried_before_anything_rests_on_it(whole: Whole) -> None:
    graders = whole.client.fine_tuning.alpha.graders
    alike: Any = {"type": "text_similarity", "name": "alike", "evaluation_metric": "rouge_1"}
    alike |= {"input": SAID, "reference": "{{ item.right }}"}
    told = graders.validate(grader=alike).to_dict()
    assert told == {"grader": alike}
    done = graders.run(grader=alike, model_sample="the cat", item={"right": "the cat sat"})
    assert done.reward == pytest.approx(0.8) and not any(done.metadata.errors.to_dict().values())
    odd = graders.run(grader=alike, model_sample="the cat", item={})
    assert odd.reward == 0 and odd.metadata.errors.invalid_variable_error
    model: Any = {"type": "score_model", "name": "worth", "model": "tiny"}
    model |= {"input": [{"role": "user", "content": "0.5 for {{ sample.output_text }}"}]}
    scored = graders.run(grader=model, model_sample="this")
    assert scored.reward == 0.5 and scored.api_model_grader_token_usage_per_model == {"tiny": 5}
    with pytest.raises(openai.BadRequestError):
        graders.validate(grader={"type": "python", "name": "p", "source": "..."})


@pytest.mark.parametrize("value", ["NaN", "Infinity", '"\\ud800"'])
def test_what_json_cannot_hold_is_refused_and_never_kept(whole: Whole, value: str) -> None:
    schema = f'{{"type": "object", "x": {value}}}'
    config = f'{{"type": "custom", "item_schema": {schema}}}'
    body = f'{{"data_source_config": {config}, "testing_criteria": [{json.dumps(CHECK)}]}}'
    headers = {"authorization": f"Bearer {whole.key}", "content-type": "application/json"}
    answer = httpx.post(f"{whole.url}/v1/evals", content=body.encode(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert whole.client.evals.list().data == []
