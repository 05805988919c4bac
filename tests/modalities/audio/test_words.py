"""When words are said."""

import pytest

from moatelier.errors import InvalidRequest
from modalities.audio.words import timed
from tests.modalities.audio.conftest import base_of
from tests.sounding import speech, tiny_whisper


def test_words_follow_each_other_within_the_clip() -> None:
    base = base_of(tiny_whisper()).with_window(2.0)
    words = timed(base, speech(1.5, 1), "one two, three!", start_s=10.0)
    assert [word.text for word in words] == ["one", "two,", "three!"]
    times = [time for word in words for time in (word.start_s, word.stop_s)]
    assert times == sorted(times) and times[0] >= 10.0 and times[-1] <= 11.52
    assert all(0 <= word.probability <= 1 for word in words)


def test_no_text_has_no_words_and_a_clip_must_fit() -> None:
    base = base_of(tiny_whisper()).with_window(2.0)
    assert timed(base, speech(1.0, 1), "") == []
    with pytest.raises(InvalidRequest, match="2 s fit"):
        timed(base, speech(3.0, 1), "too long")
