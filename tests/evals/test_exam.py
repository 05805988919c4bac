"""An exam becomes locked rows like any others."""

from io import BytesIO

import pytest

from evals.exam import lock_exam
from evals.held_out import locked_questions, open_questions
from moatelier.errors import DataError, NotFound
from store import datasets, looks
from tests.evals.test_held_out import lengths, spec

pytestmark = pytest.mark.usefixtures("home")


def upload(text: str) -> str:
    return datasets.add_file("p", "sums.csv", BytesIO(text.encode())).id


def sums(count: int, group: str = "") -> str:
    lines = [f"{n} and {n}?,{n + n},{group.format(n // 2)}" for n in range(count)]
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
    card = datasets.get_card(locked(text + "\n0 and 0?,0,pair 0"))
    assert (card.report.rows_kept, card.report.exact_duplicates) == (40, 1)
    assert (card.splits["select"].rows, card.splits["test"].rows) == (4, 36), "two groups of two"


@pytest.mark.parametrize("text", [sums(1), sums(2, "one")])
def test_one_question_or_one_group_is_no_exam(text: str) -> None:
    with pytest.raises(DataError, match="at least two questions"):
        locked(text)


def test_a_file_of_another_project_is_none() -> None:
    with pytest.raises(NotFound):
        lock_exam("q", "task-1", upload(sums(40)), lambda: None)
