"""Evaluation with the tiny model: the very rows, answers, masks and events."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from evals import answers, loss, run
from evals.rows import LONGEST_ANSWER, SPARE_TOKENS, EvalRow, read_rows
from evals.scorers import NO_LABEL
from moatelier.contracts import EvalReport, EvalSpec
from moatelier.errors import Cancelled, DataError, NotFound
from moatelier.job import Job
from modalities.text import data
from modalities.text.model import load_base
from modalities.text.template import encode_row
from serving.engine import TextEngine
from store import artifacts
from tests.evals.conftest import Curated, Train, made_rows


def evaluate(curated: Curated, split: str, folder: Path, bundle: str | None = None) -> EvalReport:
    spec = {"dataset": curated.digest, "base": "tiny", "bundle": bundle, "split": split}
    return EvalReport.model_validate(run.work(spec, Job(folder, quiet=True)))


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_dev_tells_answers_and_loss_and_select_scores_only(curated: Curated, train: Train, tmp_path: Path) -> None:
    bundle = train()
    dev = evaluate(curated, "dev", tmp_path / "dev", bundle)
    assert (dev.subject, dev.split, dev.rows, dev.kind) == (bundle, "dev", 12, "classification")
    assert dev.loss is not None and dev.predictions is not None
    lines = [json.loads(line) for line in artifacts.get_bytes(dev.predictions).splitlines()]
    assert {line["id"] for line in lines} == {row.id for row in made_rows(12, 100)}
    assert all(line.keys() >= {"id", "truth", "answer", "label", "stopped", "loss", "tokens"} for line in lines)
    assert sum(line["loss"] for line in lines) / sum(line["tokens"] for line in lines) == pytest.approx(dev.loss)
    right = sum(line["label"] == line["truth"] for line in lines)
    assert dev.metrics["accuracy"].point == pytest.approx(right / 12)
    assert dev.format_error_rate == pytest.approx(sum(line["label"] == NO_LABEL for line in lines) / 12)

    select = evaluate(curated, "select", tmp_path / "select", bundle)
    assert select.rows == 9 and select.predictions is None and select.loss is None
    assert not (tmp_path / "select" / "answers").exists()


@pytest.mark.parametrize("told", [{"epochs": 10}, {"epochs": 10, "method": "full", "learning_rate": 3e-3}])
def test_the_adapter_is_told_from_the_base(
    curated: Curated, train: Train, tmp_path: Path, told: dict[str, Any]
) -> None:
    base = evaluate(curated, "dev", tmp_path / "base")
    tuned = evaluate(curated, "dev", tmp_path / "tuned", train(**told))
    assert base.subject == "base"
    assert base.loss is not None and tuned.loss is not None and tuned.loss < base.loss
    assert tuned.natural_stop_rate > base.natural_stop_rate  # the random base never says its stop token


def test_loss_equals_a_hand_calculation(curated: Curated, train: Train) -> None:
    bundle, rows = train(), read_rows(data.write_rows(made_rows(5, 500)))
    engine = TextEngine("tiny", "fp32")
    answers.load_subject(engine, bundle)
    tuned = loss.mean_loss(engine, rows, adapter=bundle)
    base = loss.mean_loss(engine, rows, adapter=None)
    assert tuned is not None and base is not None and tuned != base

    total, tokens, model = 0.0, 0, load_base("tiny", "fp32").model
    for row in rows:
        encoded = encode_row(engine.base.tokenizer, row.messages, engine.base.stop_ids)
        with torch.no_grad():
            logits = model(torch.tensor([encoded.ids])).logits[0]
        for place, trained in enumerate(encoded.trained):
            if trained:
                shares = torch.exp(logits[place - 1] - logits[place - 1].max())
                total -= float(torch.log(shares[encoded.ids[place]] / shares.sum()))
                tokens += 1
    assert base == pytest.approx(total / tokens, abs=1e-5)


def test_the_loss_of_an_activated_adapter_counts_what_it_was_trained_on(curated: Curated, train: Train) -> None:
    bundle = train(method="alora")
    rows = [row for row in read_rows(data.write_rows(made_rows(3, 500)))]
    asked = [
        EvalRow(row.id, (*row.prompt, {"role": "assistant", "content": "lost"}, row.prompt[-1]), row.truth)
        for row in rows
    ]
    engine = TextEngine("tiny", "fp32")
    answers.load_subject(engine, bundle)
    total, tokens = 0.0, 0
    for row in asked:
        ids = encode_row(engine.base.tokenizer, row.messages, engine.base.stop_ids).ids
        answer = len(engine.base.tokenizer(row.truth).input_ids) + 1
        known = engine.logits(ids, adapter=bundle).log_softmax(-1)
        end = max(place for place, token in enumerate(ids) if token in engine.base.stop_ids)
        for place in range(end - answer + 1, end + 1):
            total -= float(known[place - 1][ids[place]])
            tokens += 1
    assert loss.mean_loss(engine, asked, adapter=bundle) == pytest.approx(total / tokens, abs=1e-4)


def test_a_killed_evaluation_goes_on_with_whole_chunks(
    curated: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "CHUNK_ROWS", 4)
    undisturbed = evaluate(curated, "dev", tmp_path / "undisturbed")
    job, generated = Job(tmp_path / "killed", quiet=True), 0
    job.stop_reason = "SIGTERM"
    spec = EvalSpec(dataset=curated.digest, base="tiny", bundle=None, split="dev")
    with pytest.raises(Cancelled):
        run.evaluate(spec, job)
    assert len(list((tmp_path / "killed" / "answers").iterdir())) == 1

    generate = TextEngine.generate

    def counted(self: TextEngine, prompts: Any, **options: Any) -> Any:
        nonlocal generated
        generated += len(prompts)
        return generate(self, prompts, **options)

    monkeypatch.setattr(TextEngine, "generate", counted)
    resumed = evaluate(curated, "dev", tmp_path / "killed")
    assert generated == 8
    assert resumed.model_copy(update={"seconds": 0}) == undisturbed.model_copy(update={"seconds": 0})


def test_progress_events_have_unique_steps(curated: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "CHUNK_ROWS", 5)
    evaluate(curated, "dev", tmp_path / "job")
    told = [event for event in events(tmp_path / "job") if event["kind"] == "progress"]
    assert [event["step"] for event in told] == [5, 10, 12]
    assert told[-1]["body"] == {"phase": "evaluate", "subject": "base", "done": 12, "rows": 12, "seconds_left": 0.0}


def test_rows_do_not_depend_on_their_order_in_the_file() -> None:
    rows = made_rows(6)
    assert read_rows(data.write_rows(rows)) == read_rows(data.write_rows(rows[::-1]))
    assert read_rows(data.write_rows(rows[:1]))[0].truth == "parcel"


def test_a_line_separator_in_a_text_does_not_cut_its_row() -> None:
    messages = ({"role": "user", "content": "one\u2028two\x85three"}, {"role": "assistant", "content": "refund"})
    row = data.Row(1, messages, "refund")
    assert [found.messages for found in read_rows(data.write_rows([row]))] == [list(messages)]


def test_the_answer_limit_leaves_room_for_every_label(curated: Curated) -> None:
    engine, rows = TextEngine("tiny", "fp32"), read_rows(data.write_rows(made_rows(3)))
    longest = max(len(engine.base.tokenizer(label).input_ids) for label in curated.card.labels)
    limit = answers.answer_limit(engine, "classification", curated.card.labels, rows)
    assert limit == longest + SPARE_TOKENS["classification"]
    assert longest < answers.answer_limit(engine, "chat", (), rows) <= LONGEST_ANSWER
    essay = EvalRow("0" * 16, rows[0].prompt, "word " * 500)
    assert answers.answer_limit(engine, "chat", (), [essay]) == LONGEST_ANSWER


def test_what_is_missing_is_named_before_anything_is_loaded(curated: Curated, tmp_path: Path) -> None:
    job = Job(tmp_path / "job", quiet=True)
    with pytest.raises(NotFound, match="bundle"):
        evaluate(curated, "dev", tmp_path / "job", "0" * 64)
    with pytest.raises(NotFound):
        run.work({"dataset": "0" * 64, "base": "tiny", "bundle": None, "split": "dev"}, job)
    card = curated.card.model_copy(update={"splits": {"train": curated.card.splits["train"]}})
    with pytest.raises(DataError, match="no dev rows"):
        run.work({"dataset": artifacts.put_json(card), "base": "tiny", "bundle": None, "split": "dev"}, job)
