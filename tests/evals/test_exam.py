"""An exam becomes locked rows like any others."""

import json
from io import BytesIO
from pathlib import Path

import pytest

from evals.exam import lock_exam
from evals.held_out import locked_questions, open_questions
from moatelier.errors import DataError, NotFound
from modalities.text import data
from store import datasets, looks
from tests.evals.test_held_out import dataset, lengths, spec
from tests.media import packed, scene

pytestmark = pytest.mark.usefixtures("home")


def upload(text: str) -> str:
    return datasets.add_file("p", "sums.csv", BytesIO(text.encode())).id


WORDS = ("apple", "river", "stone", "cloud", "tiger", "lemon", "piano", "brick")


def sums(count: int, group: str = "") -> str:
    """Questions that have few words in common, the answer and the group of each."""
    asked = [f"What are {WORDS[n % 8]} {n} {WORDS[n // 8]} {7 * n} together?" for n in range(count)]
    lines = [f"{words},{n + n},{group.format(n // 2)}" for n, words in enumerate(asked)]
    return "\n".join(["question,answer,group", *lines])


def locked(text: str, task: str = "task-1") -> str:
    return lock_exam("p", task, upload(text), lambda: None)


def test_a_tenth_is_open_and_the_rest_costs_a_look() -> None:
    digest = locked(sums(40))
    card = datasets.get_card(digest)
    assert (card.name, card.splits["select"].rows, card.splits["test"].rows) == ("sums", 4, 36)
    asked = locked_questions(spec(digest), lengths)
    shown = open_questions([digest], "select", [], None, lengths)
    assert len(asked.questions) == 36 and looks.looks_taken("p", card.locked) == 1
    assert not {question.id for question in asked.questions} & {question.id for question in shown.questions}
    assert asked.questions[0].max_tokens == 2 * 1 + 8


def test_the_same_file_is_the_same_exam_and_its_looks_go_on() -> None:
    digest = locked(sums(40))
    for number in range(5):
        locked_questions(spec(digest, task=f"task-{number}"), lengths)
    assert locked(sums(40), "task-9") == digest
    assert looks.looks_taken("p", datasets.get_card(digest).locked) == 5


def test_a_row_twice_is_asked_once_and_groups_stay_together() -> None:
    text = sums(40, "pair {}")
    card = datasets.get_card(locked(text + "\n" + text.splitlines()[1]))
    assert (card.report.rows_kept, card.report.exact_duplicates) == (40, 1)
    assert (card.splits["select"].rows, card.splits["test"].rows) == (4, 36), "two groups of two"
    assert card.report.near_duplicate_clusters == 20


def test_nearly_the_same_words_and_the_same_picture_are_one_draw(tmp_path: Path) -> None:
    pictures = {f"{n}.png": scene("red", n) for n in range(4)}
    rows = [{"question": f"Is {word} in it?", "image": f"{n % 4}.png", "answer": "no"} for n, word in enumerate(WORDS)]
    rows += [
        {"question": f"How many {word} are there in the whole world now?", "answer": n} for n, word in enumerate(WORDS)
    ]
    rows += [
        {"question": f"how many {word} are there in the whole world now", "answer": n} for n, word in enumerate(WORDS)
    ]
    exam = {"exam.jsonl": "\n".join(map(json.dumps, rows)).encode()} | pictures
    file = datasets.add_file("p", "exam.zip", BytesIO(packed(tmp_path / "exam.zip", exam).read_bytes())).id
    digest = lock_exam("p", "task-1", file, lambda: None)
    asked = locked_questions(spec(digest), lengths)
    shown = open_questions([digest], "select", [], None, lengths)
    groups = [{question.group for question in each.questions} for each in (asked, shown)]
    assert not groups[0] & groups[1] and len(groups[0] | groups[1]) <= 4 + 8
    assert len(asked.questions) + len(shown.questions) == 24


def test_two_answers_to_one_question_are_refused() -> None:
    with pytest.raises(DataError, match="two answers") as caught:
        locked(sums(40) + "\n" + sums(40).splitlines()[3].replace(",4,", ",5,"))
    assert "row 41" in caught.value.where and "row 3" in caught.value.where


def test_rows_that_an_adapter_was_trained_on_are_left_out_by_their_words() -> None:
    """A task's rows have a system message and a label, an exam's have neither."""
    digest = locked(sums(40))
    system = {"role": "system", "content": "Name it."}
    said = [line.partition(",")[0] for line in sums(40).splitlines()[1:]]
    turns = [({"role": "user", "content": text}, {"role": "assistant", "content": "x"}) for text in said]
    trained, _ = dataset("task", {"train": [data.Row(n, (system, *both), "x") for n, both in enumerate(turns)]})
    with pytest.raises(DataError, match="no row left"):
        locked_questions(spec(digest, seen=[trained]), lengths)


@pytest.mark.parametrize("text", [sums(1), sums(2, "one")])
def test_one_question_or_one_group_is_no_exam(text: str) -> None:
    with pytest.raises(DataError, match="at least two questions"):
        locked(text)


def test_a_file_of_another_project_is_none() -> None:
    with pytest.raises(NotFound):
        lock_exam("q", "task-1", upload(sums(40)), lambda: None)
