"""What the curator does with pictures and recordings: what goes, what is not trained on, and in which words."""

from typing import Any

import pytest

from agents.curator import decide
from moatelier.contracts import AudioFindings, ImageFindings, RowProblem
from moatelier.errors import DataError
from tests.agents.media_scenes import BOTH, DIGITS, MOODS, SHOTS, TOLD, planned

PICTURES = planned("90 % right")
TRANSCRIPTS = planned("95 %", data=DIGITS)
MOOD = planned("90 % right", data=MOODS)
LABELS = {row: "ab"[row % 2] for row in range(1, 101)}


def seen(**fields: Any) -> ImageFindings:
    return ImageFindings(**{"rows": 100, "labels": {"a": 50, "b": 50}} | fields)


def heard(**fields: Any) -> AudioFindings:
    return AudioFindings(**{"rows": 100, "labels": {}, "window_s": 3.0} | fields)


def test_images_that_show_nothing_are_dropped_with_the_reason() -> None:
    problem = RowProblem(row=9, field="image", reason="The image is damaged.", remedy="Save it again.")
    decision = decide(seen(tiny=(3,), blank=(4, 5), near_test=(6,), problems=(problem,)), PICTURES, True, LABELS)
    assert decision.drop == {
        3: "has a side of fewer than 16 pixels",
        4: "shows one plain colour",
        5: "shows one plain colour",
        6: "looks nearly the same as a locked test image",
        9: "cannot be used: image: The image is damaged.",
    }
    assert decision.reasons[0] == "95 images of 100 are kept."
    assert "2 images left out, each because it shows one plain colour." in decision.reasons
    assert decision.redact == decision.shorten == ()


def test_recordings_that_say_nothing_are_dropped_with_the_reason() -> None:
    found = heard(silent=(1, 2), short=(2, 3), too_long=(4,), near_test=(5,), exact_duplicates=(6,))
    decision = decide(found, TRANSCRIPTS, True, {})
    assert decision.drop == {
        1: "is silent",
        2: "is silent",
        3: "is shorter than a tenth of a second",
        4: "does not fit into the window of 3 s",
        5: "is the same as a locked test recording",
        6: "repeats an earlier recording",
    }


def test_few_faulty_recordings_are_not_trained_on_and_many_are_how_life_is() -> None:
    decision = decide(heard(mismatched=(7, 8), clipped=(8, 9)), TRANSCRIPTS, False, {})
    assert decision.left_out_of_train == (7, 8, 9) and not decision.drop
    assert any("2 recordings whose transcript the base finds far less likely" in why for why in decision.reasons)
    decision = decide(heard(clipped=tuple(range(1, 41))), TRANSCRIPTS, False, {})
    assert decision.left_out_of_train == ()
    assert any(why.startswith("40 recordings with clipped peaks stay") for why in decision.reasons)


def test_a_rare_class_keeps_its_faulty_recordings() -> None:
    labels = LABELS | {row: "rare" for row in range(1, 9)}
    found = heard(labels={"a": 46, "b": 46, "rare": 8}, clipped=(1, 2, 20))
    assert decide(found, MOOD, False, labels).left_out_of_train == (20,)


def test_what_is_too_long_may_be_refused_instead() -> None:
    refusing = planned("95 %, refuse recordings that are too long", "refuse", data=DIGITS)
    assert refusing.too_long.value == "refuse"
    with pytest.raises(DataError, match=r"2 recordings do not fit into the window of 3 s.*drop recordings") as caught:
        decide(heard(too_long=(4, 5)), refusing, False, {})
    assert caught.value.where == "row 4, 5"


def test_too_few_are_refused_in_words_that_fit() -> None:
    few = {row: "a" if row > 3 else "cat" for row in range(1, 101)}
    with pytest.raises(DataError, match="fewer than 5 images after cleaning: cat") as caught:
        decide(seen(labels={"a": 97, "cat": 3}), PICTURES, False, few)
    assert caught.value.where == "the names of the folders" and "from the folder" in caught.value.remedy
    with pytest.raises(DataError) as caught:
        decide(seen(labels={"a": 97, "cat": 3}), planned("90 %", data=SHOTS), False, few)
    assert caught.value.where == "column species" and "from the file" in caught.value.remedy
    with pytest.raises(DataError, match="Only 9 recordings of 12 are left"):
        decide(heard(rows=12, silent=(1, 2, 3)), TRANSCRIPTS, False, {})
    with pytest.raises(DataError, match="all recordings have the same label"):
        decide(heard(labels={"a": 100}), planned("intent, 90 %", "classification", data=BOTH), False, {1: "a"})


def test_a_search_needs_enough_to_choose_from() -> None:
    plan = planned("find pictures by caption, 60 %", data=TOLD)
    assert decide(seen(rows=101, labels={}, blank=(1,)), plan, False).drop == {1: "shows one plain colour"}
    with pytest.raises(DataError, match="Only 99 images of 100 are left after cleaning; at least 100 are needed"):
        decide(seen(rows=100, labels={}, blank=(1,)), plan, False)
