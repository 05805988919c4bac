"""What diagnosis reads of dev rows: form, content, how sure an answer was."""

import math
from pathlib import Path
from typing import Any

import pytest

from evals import answers, loss, signs
from evals.answered import Answered
from evals.rows import EvalRow, read_rows
from moatelier.contracts import DevRow, EvalReport
from modalities.text import data
from serving.engine import TextEngine
from store import artifacts
from tests.evals.conftest import Curated, Train, made_rows
from tests.evals.samples import card

CARD = card().model_copy(update={"labels": ("gift", "gift card", "refund")})


def read(kind: str, *told: tuple[str, str], **fields: Any) -> list[DevRow]:
    """The rows of (truth, answer) pairs, after they were kept."""
    rows = [EvalRow(str(n), (), truth) for n, (truth, _) in enumerate(told)]
    given = [Answered(truth, answer, **fields) for truth, answer in told]
    of = CARD.model_copy(update={"kind": kind})
    report = EvalReport(subject="base", split="dev", rows=len(rows), kind=of.kind, metrics={})
    return list(signs.read(report.model_copy(update={"predictions": signs.keep(of, rows, given)}), of))


def test_an_answer_that_names_the_label_among_other_words_means_it(home: Path) -> None:
    told = read(
        "classification",
        ("gift card", "gift card"),
        ("gift card", "The label is: Gift-card!"),
        ("gift", "a gift card or a refund"),
        ("refund", "gift"),
        ("refund", ""),
    )
    assert [row.formed for row in told] == [True, False, False, True, False]
    assert [row.meant for row in told] == [True, True, False, False, False]
    assert [row.answer for row in told][1:4] == ["(no label)", "(no label)", "gift"]


def test_among_json_what_is_no_json_has_another_form(home: Path) -> None:
    told = read(
        "chat",
        ('{"name": "Ann", "age": 4}', '{"name":"Ann","age":4}'),
        ('{"name": "Bob", "age": 5}', "name: Bob, age: 5"),
        ('{"name": "Cy", "age": 6}', '{"name": "Di", "age": 6}'),
    )
    assert [(row.formed, row.meant) for row in told] == [(True, True), (False, True), (True, False)]


def test_free_answers_have_no_form(home: Path) -> None:
    assert all(row.formed for row in read("chat", ("Hello.", "Hi"), ("1", "2")))


def test_training_rows_of_another_form_are_numbered(home: Path) -> None:
    rows = made_rows(6)
    odd = data.Row(7, (*rows[0].messages[:-1], {"role": "assistant", "content": "parcel, I think"}), "parcel")
    info = card().splits["train"].model_copy(update={"artifact": artifacts.put_bytes(data.write_rows([*rows, odd]))})
    of = card().model_copy(update={"labels": ("parcel", "refund", "broken"), "splits": {"train": info}})
    assert signs.malformed(of) == (7,)


def test_how_sure_an_answer_was_is_its_probability(curated: Curated, train: Train) -> None:
    bundle, rows = train(epochs=6), read_rows(data.write_rows(made_rows(8, 500)))
    engine = TextEngine("tiny", "fp32")
    answers.load_subject(engine, bundle)
    wrong = {"parcel": "refund", "refund": "broken", "broken": "parcel"}
    given = [Answered(row.truth, row.truth if n % 2 else wrong[row.truth]) for n, row in enumerate(rows)]
    expected, sure = loss.measure(
        engine, rows, [*given[:-1], Answered(rows[-1].truth, "x", stopped=False)], adapter=bundle
    )
    said = [EvalRow(row.id, row.prompt, one.answer) for row, one in zip(rows, given, strict=True)]
    known = loss.losses(engine, said, adapter=bundle)
    assert sure[-1] is None and all(one is not None for one in expected)
    for probability, told in list(zip(sure, known, strict=True))[:-1]:
        assert told is not None and probability == pytest.approx(math.exp(-told[0]), rel=1e-4)
