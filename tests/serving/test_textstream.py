import random

import pytest

from serving.textstream import TextStream
from tests.fakes import tiny_tokenizer

TEXTS = [
    "where is my order",
    "smörgåsbord für 3 €",
    "日本語のテキスト",
    "ok 👍🏽 fine 🇩🇪",
    "a\ufffdb",
    "line\n\n  two  ",
    "",
]


def pieces(ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    tokenizer = tiny_tokenizer()
    stream = TextStream(lambda part: tokenizer.decode(part, skip_special_tokens=True), stop)
    return [*(stream.push(token) for token in ids), stream.finish()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_joined_are_the_text(text: str) -> None:
    ids = tiny_tokenizer()(text, add_special_tokens=False).input_ids
    parts = pieces(ids)
    assert "".join(parts) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in parts), "half a character was given out"


def test_random_bytes_stream_as_they_decode_at_once() -> None:
    """A small model says broken UTF-8 now and then; its stream must not differ from its answer."""
    tokenizer, randomness = tiny_tokenizer(), random.Random(0)
    for _ in range(200):
        ids = [randomness.randrange(3, len(tokenizer)) for _ in range(randomness.randrange(1, 30))]
        assert "".join(pieces(ids)) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("order END tail", ("END",), "order "),
        ("order EN", ("END",), "order EN"),
        ("aab", ("ab",), "a"),
        ("one two three", ("three", "two"), "one "),
        ("refund", ("refund",), ""),
        ("where is", ("zzz",), "where is"),
    ],
)
def test_stop_strings_never_show(text: str, stop: tuple[str, ...], expected: str) -> None:
    ids = tiny_tokenizer()(text, add_special_tokens=False).input_ids
    given = ""
    for part in pieces(ids, stop):
        given += part
        assert expected.startswith(given), "text was given out that may belong to a stop string"
    assert given == expected


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    ids = tiny_tokenizer()("my card E x", add_special_tokens=False).input_ids
    parts = pieces(ids, ("END",))
    assert parts[-1] == ""
    assert "".join(parts[:-2]) == "my card E "
