import pytest

from modalities.audio.metrics import RowErrors, by_speaker, normalise, row_errors, scores


def test_texts_are_normalised_as_whisper_does() -> None:
    assert normalise("  Six. ") == normalise("6") == "6"
    assert normalise("Mr. Smith's colour, um, isn't twenty-one!") == "mister smith is color is not 21"
    assert normalise("Größe, bitte!", "de") == "größe bitte" and normalise("你好", "zh") == "你 好"


@pytest.mark.parametrize(
    ("said", "heard", "words", "errors"),
    [
        ("the cat sat", "the cat sat", 3, 0),
        ("the cat sat", "The cat, sat.", 3, 0),
        ("the cat sat", "the dog sat", 3, 1),
        ("the cat sat", "the sat", 3, 1),
        ("the cat sat", "the big black cat sat", 3, 2),
        ("the cat sat", "", 3, 3),
        ("", "thank you", 0, 2),
        ("", "", 0, 0),
        ("um", "", 0, 0),
        ("one", "a b c", 1, 3),
    ],
)
def test_word_errors_are_those_of_a_hand_count(said: str, heard: str, words: int, errors: int) -> None:
    found = row_errors(said, heard)
    assert (found.words, found.word_errors, found.exact) == (words, errors, errors == 0)


def test_character_errors() -> None:
    assert row_errors("kitten", "sitting") == RowErrors(1, 1, 6, 3, False)
    assert row_errors("", "ab").char_errors == 2


def test_rates_are_sums_over_sums_and_by_speaker() -> None:
    rows = [row_errors("the big red fox", "The big red fox."), row_errors("dog", "cat"), row_errors("no", "no")]
    found = scores(rows)
    assert (found.rows, found.wer, found.exact) == (3, pytest.approx(1 / 6), pytest.approx(2 / 3))
    assert {name: one.wer for name, one in by_speaker(rows, ["b", "a", None]).items()} == {"": 0, "a": 1, "b": 0}
    assert scores([]).wer == 0 and scores([row_errors("", "a b")]).wer == 2
