"""Labelled pictures become questions: balanced, deterministic, each picture's in its own split."""

from collections import Counter
from dataclasses import replace

import pytest

from moatelier.contracts import DatasetCard, SplitInfo
from moatelier.errors import DataError, InvalidRequest
from modalities.imagetext import data
from modalities.imagetext.questions import SYSTEM, QuestionRow, ask
from modalities.vision import data as images
from modalities.vision.rows import ImageRow
from store import artifacts
from tests.training.rows import dataset
from tests.training.rows import rows as text_rows

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


def card(**changes: object) -> DatasetCard:
    like = DatasetCard.model_validate(artifacts.get_json(dataset(text_rows(3), [])))
    train, dev = pictures(9), pictures(3, start=9)
    splits = {
        name: SplitInfo(rows=len(split), artifact=artifacts.put_bytes(images.write_rows(split)))
        for name, split in (("train", train), ("dev", dev))
    }
    splits["test"] = SplitInfo(rows=3, artifact=None)
    return like.model_copy(update={"modality": "vision", "labels": LABELS, "splits": splits} | changes)


def test_a_dataset_of_questions_keeps_the_pictures_splits(home: object) -> None:
    made = data.derive(card(), seed=2)
    assert (made.modality, made.kind, made.labels, made.locked) == ("imagetext", "chat", LABELS, "0" * 64)
    assert made.splits["test"] == SplitInfo(rows=3, artifact=None)
    rows = {name: data.parse_rows(artifacts.get_bytes(str(made.splits[name].artifact))) for name in ("train", "dev")}
    assert (len(rows["train"]), len(rows["dev"])) == (27, 9) == (made.splits["train"].rows, made.splits["dev"].rows)
    assert not {row.pixels for row in rows["train"]} & {row.pixels for row in rows["dev"]}
    assert rows["dev"] == ask(pictures(3, start=9), LABELS, seed=2)
    assert data.derive(card(), seed=2) == made


def test_only_labelled_images_become_questions(home: object) -> None:
    for changes in ({"modality": "text"}, {"labels": ()}):
        with pytest.raises(InvalidRequest, match="no labelled images"):
            data.derive(card(**changes))


def test_a_row_of_another_kind_is_refused(home: object) -> None:
    [row] = data.parse_rows(data.write_rows([ask(pictures(3), LABELS)[0]]))
    assert row == replace(row)
    with pytest.raises(DataError, match="row 7"):
        data.rows_of([{"row": 7, "messages": [{"role": "user", "content": "?"}]}])
