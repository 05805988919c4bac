"""Scores of transcripts: by hand, with their bounds, by speaker, against one another, and the promise of the bounds."""

import numpy as np
import pytest

from evals import transcripts
from evals.scorers import compare, need_metric, score
from evals.statistics import exact_lower
from evals.transcripts import Heard
from moatelier.errors import DataError, InvalidRequest
from tests.evals.samples import Answered


def rows(*pairs: tuple[str, str], speaker: str | None = None) -> list[Answered]:
    return [Answered(said, heard, group=speaker) for said, heard in pairs]


MIXED = rows(
    ("Turn the light on.", "turn the light on"),  # only case and punctuation differ
    ("turn it off", "turn it of"),
    ("twenty one", "21"),
    ("stop", ""),
    ("go", "go go now"),
)


def test_words_are_compared_after_the_usual_normaliser() -> None:
    scores = score("transcription", (), MIXED)
    # 4 + 3 + 1 + 1 + 1 words; one is substituted, one deleted, two inserted.
    assert scores.metrics["word_accuracy"].point == pytest.approx(1 - 4 / 10)
    assert scores.metrics["wer"].point == pytest.approx(4 / 10)
    assert scores.metrics["exact_match"].point == pytest.approx(2 / 5)
    assert scores.metrics["cer"].point > 0 and scores.confusion == () and scores.format_error_rate == 0
    wer, right = scores.metrics["wer"], scores.metrics["word_accuracy"]
    assert (wer.low, wer.high) == (pytest.approx(1 - right.high), pytest.approx(1 - right.low))
    assert right.claim_low < right.low < right.point < right.high


def test_more_errors_than_words_are_less_than_nothing() -> None:
    scores = score("transcription", (), rows(("no", "a whole sentence came out"), ("yes", "yes")))
    assert scores.metrics["word_accuracy"].point < 0
    assert score("transcription", (), rows(("", ""), ("", "boo"))).metrics["exact_match"].point == 0.5


def test_all_right_claims_no_certainty() -> None:
    scores = score("transcription", (), rows(*[("seven", "seven")] * 200))
    found = scores.metrics["word_accuracy"]
    assert found.point == 1 and found.claim_low == pytest.approx(exact_lower(200, 200, 0.01))


@pytest.mark.parametrize(("rows_", "wrong"), [(200, 4), (100, 1)])
def test_of_single_words_the_bound_is_nearly_that_of_exact_matches(rows_: int, wrong: int) -> None:
    given = rows(*[("seven", "seven")] * (rows_ - wrong), *[("seven", "eleven")] * wrong)
    scores = score("transcription", (), given)
    right, exact = scores.metrics["word_accuracy"], scores.metrics["exact_match"]
    assert right.point == exact.point
    assert exact.claim_low - 0.01 < right.claim_low <= exact.claim_low + 1e-3


def test_every_speaker_has_figures_of_their_own() -> None:
    given = rows(("red blue", "red blue"), ("house", "hose"), speaker="theo") + rows(("green", "green"), speaker="ann")
    speakers = score("transcription", (), given).per_class
    assert list(speakers) == ["ann", "theo"]
    assert speakers["theo"] == {
        "word_accuracy": pytest.approx(2 / 3),
        "exact_match": 0.5,
        "wer": pytest.approx(1 / 3),
        "cer": pytest.approx(1 / 13),
        "support": 2.0,
    }
    assert score("transcription", (), MIXED).per_class == {}


def test_scripts_without_blanks_are_counted_by_the_character() -> None:
    scores = score("transcription", (), rows(("你好世界", "你好世"), ("再见", "再见")))
    assert scores.metrics["wer"].point == pytest.approx(1 / 6)
    assert score("transcription", (), rows(("Größe", "große"), ("über", "über"))).metrics["exact_match"].point == 0.5


def test_two_subjects_are_compared_by_their_words() -> None:
    said = ["red blue green grey"] * 60
    good = [Answered(text, text if n % 10 else "red blue green") for n, text in enumerate(said)]
    poor = [Answered(text, "red blue green" if n % 2 else text) for n, text in enumerate(said)]
    found = compare("word_accuracy", "transcription", (), "base", good, poor)
    assert found.difference.point == pytest.approx((30 - 6) / 240)
    assert (found.wins, found.losses) == (30, 6) and found.p_value < 0.01
    assert 0 < found.difference.claim_low < found.difference.low < found.difference.point
    by_row = compare("exact_match", "transcription", (), "base", good, poor)
    assert by_row.difference.point == pytest.approx(24 / 60) and by_row.difference.method == "tango"
    alike = compare("word_accuracy", "transcription", (), "other", good, good)
    assert alike.difference.point == 0 and alike.difference.claim_low < 0 and alike.wins == 0


def test_what_cannot_be_measured_is_refused() -> None:
    for metric in ("accuracy", "macro_f1"):
        with pytest.raises(InvalidRequest, match="word_accuracy"):
            need_metric("transcription", metric)  # type: ignore[arg-type]  # a parameter
    with pytest.raises(InvalidRequest):
        need_metric("chat", "word_accuracy")
    with pytest.raises(DataError):
        score("transcription", (), [])
    with pytest.raises(DataError, match="same rows"):
        compare("word_accuracy", "transcription", (), "base", rows(("a", "a")), rows(("b", "b")))


@pytest.mark.parametrize("together", [0.5, 1000.0], ids=["whole rows go wrong", "words go wrong alone"])
def test_the_bound_is_seldom_above_what_is_true(together: float) -> None:
    """Some rows are hard to hear as a whole; at most 1 % is promised, and 3 of 100 are luck."""
    chance, rate, runs, above = np.random.default_rng(1), 0.95, 100, 0
    for run in range(runs):
        said = chance.integers(1, 12, 120).astype(float)
        hard = chance.beta(rate * together, (1 - rate) * together, 120)
        wrong = chance.binomial(said.astype(int), 1 - hard).astype(float)
        exact = transcripts.clopper_pearson(int((wrong == 0).sum()), 120)
        above += transcripts._accuracy_interval(said, wrong, exact, alpha=0.01, seed=run).claim_low > rate
    assert above <= 3


def test_a_candidate_that_is_worse_by_the_margin_is_seldom_called_no_worse() -> None:
    chance, above = np.random.default_rng(2), 0
    for _ in range(300):
        said = chance.integers(1, 12, 200).astype(float)
        ours, theirs = (chance.binomial(said.astype(int), share).astype(float) for share in (0.07, 0.05))
        heard = [Heard(said, wrong, said, wrong, wrong == 0) for wrong in (ours, theirs)]
        above += transcripts._paired_words(heard[0], heard[1], 0.01).claim_low > -0.02
    assert above <= 9
