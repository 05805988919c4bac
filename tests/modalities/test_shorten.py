import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatelier.errors import DataError
from modalities.text.data import Row, shorten

texts = st.text(alphabet="ab \n", min_size=1, max_size=200).filter(str.strip)


def words(row: Row) -> int:
    return sum(len(message["content"].split()) for message in row.messages)


def row(*contents: str) -> Row:
    roles = ("system", *(("user", "assistant") * len(contents)))
    messages = tuple({"role": role, "content": text} for role, text in zip(roles, contents, strict=False))
    return Row(7, messages, file="chats.jsonl", line=9)


@given(questions=st.tuples(texts, texts), answers=st.tuples(texts, texts), limit=st.integers(1, 150))
def test_it_fits_and_only_the_ends_of_questions_are_gone(
    questions: tuple[str, str], answers: tuple[str, str], limit: int
) -> None:
    given = row("Be kind.", questions[0], answers[0], questions[1], answers[1])
    needed = 2 + sum(len(text.split()) for text in answers)
    try:
        cut = shorten(given, words, limit)
    except DataError as error:
        assert needed + 2 > limit  # a question keeps its first character
        assert error.where == "chats.jsonl, row 7, line 9"
        return
    assert words(cut) <= limit
    for before, after in zip(given.messages, cut.messages, strict=True):
        assert after["role"] == before["role"] and after["content"]
        assert before["content"].startswith(after["content"])
        if before["role"] != "user" or words(given) <= limit:
            assert after == before


def test_the_longest_question_is_cut_first_and_no_more_than_needed() -> None:
    cut = shorten(row("Be kind.", "one two three four five six", "yes", "seven eight", "no"), words, 10)
    assert [message["content"] for message in cut.messages[1::2]] == ["one two three four", "seven eight"]


def test_an_answer_that_is_too_long_by_itself_is_refused() -> None:
    with pytest.raises(DataError, match="Even with its questions cut away the row has 9 tokens, where 5 fit") as caught:
        shorten(row("Be kind.", "why so long", "because of this and that"), lambda r: words(r) + 1, 5)
    assert "drop rows" in caught.value.remedy
