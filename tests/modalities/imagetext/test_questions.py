"""Labelled pictures become questions: balanced, deterministic, each picture's in its own split."""

from collections import Counter
from dataclasses import replace

import pytest

from moatelier.errors import DataError
from modalities.imagetext import data
from modalities.imagetext.questions import SYSTEM, QuestionRow, ask
from modalities.vision.rows import ImageRow

LABELS = ("ant", "big_cat", "dog")


def pictures(count: int, start: int = 0) -> list[ImageRow]:
    return [ImageRow(n + 1, f"{n:064x}", f"{n:064x}", label=LABELS[n % 3]) for n in range(start, start + count)]


def by_form(rows: list[QuestionRow], form: str) -> list[QuestionRow]:
    return [row for row in rows if row.form == form]


def test_each_picture_is_asked_about_in_every_form() -> None:
    asked = ask(pictures(60), LABELS, seed=1)
    assert [row.number for row in asked] == list(range(1, 181)) and len({row.id for row in asked}) == 180
    assert {row.answer for row in by_form(asked, "what")} == {"ant", "big cat", "dog"}
    for label in LABELS:
        answers = Counter(row.answer for row in by_form(asked, "whether") if row.label == label)
        assert answers == {"yes": 10, "no": 10}
        firsts = [row.question.split(" or ")[0] for row in by_form(asked, "which") if row.label == label]
        assert sum(first.endswith(label.replace("_", " ")) for first in firsts) == 10
    questions = {row.question for row in asked}
    assert {"What is shown?", "Is this an ant?", "Is this a big cat?", "Is it a dog or an ant?"} <= questions
    assert asked[0].messages[0] == {"role": "system", "content": SYSTEM} and asked[0].messages[1]["picture"]


def test_the_answer_is_never_the_other_class() -> None:
    for row in ask(pictures(60), LABELS):
        shown = row.label.replace("_", " ")
        if row.form == "whether":
            assert (row.answer == "yes") == row.question.endswith(f" {shown}?")
        else:
            assert row.answer == shown and (row.form == "what" or f" {shown}" in row.question)


def test_questions_depend_on_pictures_and_seed_and_not_on_their_order() -> None:
    rows = pictures(30)
    same = {(row.pixels, row.question) for row in ask(rows[::-1], LABELS, seed=3)}
    assert same == {(row.pixels, row.question) for row in ask(rows, LABELS, seed=3)}
    assert same != {(row.pixels, row.question) for row in ask(rows, LABELS, seed=4)}


@pytest.mark.parametrize("labels", [("ant",), ("ant", "dog")])
def test_unknown_or_lonely_classes_are_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(DataError):
        ask(pictures(3), labels)


def test_of_held_out_pictures_each_is_asked_about_once() -> None:
    asked = ask(pictures(60), LABELS, seed=1, held_out=True)
    assert len({row.pixels for row in asked}) == len(asked) == 60
    assert Counter(row.form for row in asked) == {"what": 20, "whether": 20, "which": 20}
    assert Counter(row.answer for row in by_form(asked, "whether"))["yes"] in range(8, 13)


def test_what_is_locked_is_named_by_its_questions_alone(home: object) -> None:
    asked = ask(pictures(6), LABELS)
    renumbered = [replace(row, number=row.number + 5) for row in reversed(asked)]
    assert data.locked_digest(asked) == data.locked_digest(renumbered) != data.locked_digest(asked[1:])


def test_a_row_of_another_kind_is_refused(home: object) -> None:
    [row] = data.parse_rows(data.write_rows([ask(pictures(3), LABELS)[0]]))
    assert row == replace(row)
    with pytest.raises(DataError, match="row 7"):
        data.rows_of([{"row": 7, "messages": [{"role": "user", "content": "?"}]}])
