"""Graders' measures, against values worked out by hand."""

import pytest

from modalities.text.similarity import MEASURES, bleu, compares, gleu, meteor, rouge_l


@pytest.mark.parametrize("measure", [name for name in MEASURES if not name.startswith("rouge_")])
def test_equal_texts_are_wholly_alike_and_others_are_not(measure: str) -> None:
    same, other = "the parcel came late again today", "42"
    assert MEASURES[measure](same, same) == pytest.approx(1.0, abs=0.01)
    assert MEASURES[measure](other, same) < 0.2


def test_rouge_counts_n_grams_both_ways() -> None:
    assert MEASURES["rouge_1"]("the cat", "the cat sat") == pytest.approx(0.8)  # 2 of 2 and 2 of 3
    assert MEASURES["rouge_2"]("the cat", "the cat sat") == pytest.approx(2 / 3)  # 1 of 1 and 1 of 2
    assert MEASURES["rouge_3"]("the cat", "the cat sat") == 0.0
    assert rouge_l("a x b y c", "a b c") == pytest.approx(0.75)  # 3 of 5 and 3 of 3


def test_bleu_is_smoothed_and_punishes_brevity() -> None:
    assert bleu("", "a") == 0.0 and bleu("b", "a") == 0.0
    full, short = (
        bleu("the cat sat on the mat", "the cat sat on the mat"),
        bleu("the cat sat", "the cat sat on the mat"),
    )
    assert full == pytest.approx(1.0) and short == pytest.approx(0.3678, abs=1e-3)  # e^(1 - 6/3)


def test_gleu_takes_the_lesser_of_precision_and_recall() -> None:
    assert gleu("the cat", "the cat sat") == pytest.approx(3 / 6)  # of 3 and 6 n-grams 3 are shared


def test_meteor_knows_stems_and_punishes_disorder() -> None:
    assert meteor("cats walking", "cat walked") > 0.9 * meteor("cat walked", "cat walked")
    assert meteor("mat the on sat cat the", "the cat sat on the mat") < meteor("the cat sat", "the cat sat on the mat")


def test_texts_compare_by_the_operation() -> None:
    told = {name: compares(name, "Yes, please", "yes") for name in ("eq", "ne", "like", "ilike")}  # type: ignore[arg-type]
    assert told == {"eq": False, "ne": True, "like": False, "ilike": True}
