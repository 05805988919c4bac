"""Earlier answers before a model: after the person's words, so that what stands before them can be shared."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.prompts import INTRODUCTION, with_references

ASKED: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is it?"}]


def test_without_references_nothing_changes() -> None:
    assert with_references(ASKED, []) == ASKED


def test_references_are_listed_in_order_after_the_persons_words() -> None:
    [system, user] = with_references(ASKED, ["On its way.", " Lost. "])
    assert system == ASKED[0]
    assert user["content"] == f"Where is it?\n\n{INTRODUCTION}\n\n[1] On its way.\n\n[2] Lost."


@given(st.lists(st.text(min_size=1), max_size=4), st.text(min_size=1))
def test_the_question_stays_the_beginning_whatever_was_proposed(references: list[str], said: str) -> None:
    """The prefix that layers share; with a template that begins with the turn's text its tokens are shared too."""
    turns = with_references([ASKED[0], {"role": "user", "content": said}], references)
    assert len(turns) == 2 and turns[0] == ASKED[0] and turns[1]["content"].startswith(said)


def test_pictures_stay_and_the_words_follow_them() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    [turn] = with_references([{"role": "user", "content": [picture]}], ["A cat."])
    assert turn["content"][0] == picture and "[1] A cat." in turn["content"][1]["text"]


def test_after_an_answer_there_is_a_turn_of_their_own() -> None:
    turns = with_references([*ASKED, {"role": "assistant", "content": "Here"}], ["There."])
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]


def test_long_references_are_cut_and_say_so() -> None:
    [_, user] = with_references(ASKED, ["x" * 50, "short"], chars=10)
    assert user["content"].endswith("[1] xxxxxxxxxx [...]\n\n[2] short")


def test_the_callers_messages_are_left_alone() -> None:
    with_references(ASKED, ["a"])
    assert ASKED[1]["content"] == "Where is it?"
