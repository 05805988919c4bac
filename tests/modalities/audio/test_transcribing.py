import random

import numpy as np
import pytest
from whisper.decoding import DecodingOptions, DecodingTask

from moatelier.errors import InvalidRequest
from modalities.audio import decoding
from modalities.audio.config import RATE
from modalities.audio.greedy import Heard
from modalities.audio.levels import Piece, Samples
from modalities.audio.model import AudioBase, features
from modalities.audio.transcribing import Joining, Options, Segment, detect_language, join, transcribe
from tests.sounding import speech, tone

SHORT = Options(max_tokens=12)


def test_silence_has_no_words(english: AudioBase) -> None:
    quiet = np.zeros(5 * RATE, np.float32)
    noise = np.random.default_rng(0).normal(0, 1e-4, RATE).astype(np.float32)
    for found in transcribe(english.with_window(2.0), [quiet, noise, quiet[:0]], SHORT):
        assert found.text == "" and found.segments == () and found.mean_logprob == 0
    assert transcribe(english, []) == []


def test_what_is_likely_no_speech_and_unlikely_text_has_no_words(
    english: AudioBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tuple(english.tokenizer.encode(" hello"))
    answers = [Heard(said, -2.0, 0.9, True), Heard(said, -0.1, 0.9, True), Heard(said, -2.0, 0.1, True)]
    monkeypatch.setattr(decoding, "greedy", lambda *_: answers)
    assert [found.text for found in transcribe(english, [speech(1.0)] * 3)] == ["", "hello", "hello"]


def test_many_recordings_come_back_in_order_and_as_if_alone(english: AudioBase) -> None:
    base = english.with_window(1.0)
    sounds = [speech(seconds, seed) for seed, seconds in enumerate([0.8, 3.5, 0.0, 1.0, 6.0])]
    together = transcribe(base, sounds, SHORT)
    assert [found.text for found in together] == [transcribe(base, [sound], SHORT)[0].text for sound in sounds]
    assert [found.seconds for found in together] == pytest.approx([0.8, 3.5, 0.0, 1.0, 6.0])
    assert len(together[4].segments) > 4 and together[2].text == ""
    for found in together:
        starts = [segment.start_s for segment in found.segments]
        assert starts == sorted(starts) and all(0 <= s.start_s < s.stop_s <= found.seconds for s in found.segments)


def test_beam_and_temperature_and_timestamps_are_whispers_own(english: AudioBase) -> None:
    base = english.with_window(2.0)
    sound = speech(1.8)
    options = DecodingOptions(language="en", beam_size=3, without_timestamps=True, fp16=False, sample_len=12)
    [expected] = DecodingTask(base.model, options).run(features([sound], base))
    [found] = transcribe(base, [sound], Options(beam=3, max_tokens=12))
    assert found.text == expected.text and found.mean_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
    both = transcribe(base, [speech(1.5, 3), sound], Options(beam=3, max_tokens=12))
    assert both[1].text == expected.text and both[0].text
    [timed] = transcribe(base, [sound], Options(timestamps=True, max_tokens=30))
    assert all(0 <= s.start_s <= s.stop_s <= 1.8 for s in timed.segments)
    assert not any(token >= base.tokenizer.eot for s in timed.segments for token in s.tokens)
    assert transcribe(base, [sound], Options(temperature=0.7, max_tokens=5))[0].seconds == 1.8


def test_timestamps_cut_the_text(english: AudioBase, monkeypatch: pytest.MonkeyPatch) -> None:
    def mark(seconds: float) -> int:
        return int(english.tokenizer.timestamp_begin + round(seconds / 0.02))

    one, two = english.tokenizer.encode(" one"), english.tokenizer.encode(" two")
    tokens = (mark(0.2), *one, mark(0.8), mark(1.0), *two, mark(9.0))
    monkeypatch.setattr(decoding, "_by_whisper", lambda *_: [Heard(tokens, -0.1, 0.0, True)])
    [found] = transcribe(english.with_window(2.0), [speech(1.8)], Options(timestamps=True))
    assert [(s.start_s, s.stop_s, s.text) for s in found.segments] == [(0.2, 0.8, "one"), (1.0, 1.8, "two")]
    assert found.text == "one two"


def test_languages_are_told_or_asked_for(english: AudioBase, multilingual: AudioBase) -> None:
    base = multilingual.with_window(1.0)
    sounds = [speech(0.9, seed) for seed in range(3)]
    told = detect_language(base, sounds)
    assert all(code in base.tokenizer.all_language_codes and 0 < p <= 1 for code, p in told)
    heard = transcribe(base, sounds, SHORT)
    assert [found.language for found in heard if found.text] == [
        code for (code, _), found in zip(told, heard, strict=True) if found.text
    ]
    assert transcribe(base, sounds[:1], Options(language="German", max_tokens=5))[0].language == "de"
    for base, options, told_why in (
        (english, Options(language="de"), "English alone"),
        (english, Options(task="translate"), "English alone"),
        (multilingual, Options(language="klingon"), "no language 'klingon'"),
        (english, Options(beam=0), "width of 1 to 32"),
        (english, Options(beam=2, temperature=0.5), "no temperature"),
    ):
        with pytest.raises(InvalidRequest, match=told_why):
            transcribe(base, sounds, options)
    with pytest.raises(InvalidRequest, match="English alone"):
        detect_language(english, sounds)


@pytest.mark.parametrize(
    ("left", "right", "joined"),
    [
        ("one two three", "three four", "one two three four"),
        ("one two thr", "two three four", "one two three four"),
        ("we saw the red", "read house there", "we saw the red read house there"),
        ("One, two", "two. Three", "One, two Three"),
        ("a b c d e f", "a z z z", "a b c d e f a z z z"),
        ("", "one", " one"),
        ("one", "one", "one "),
    ],
)
def test_texts_are_joined_where_they_overlap(left: str, right: str, joined: str) -> None:
    assert " ".join(join(left, right, 5)) == joined


def test_windows_that_overlap_repeat_nothing(english: AudioBase, monkeypatch: pytest.MonkeyPatch) -> None:
    words = iter([" one two three", " three four", " four five"])

    def decoded(model: object, tokenizer: object, states: Samples, *_: object) -> list[Heard]:
        return [Heard(tuple(english.tokenizer.encode(next(words))), -0.1, 0.0, True) for _ in states]

    monkeypatch.setattr(decoding, "greedy", decoded)
    [found] = transcribe(english.with_window(2.0), [tone(5.0)])
    assert found.text == "one two three four five" and len(found.segments) == 3


@pytest.mark.parametrize("overlap_s", [0.0, 0.4, 1.0])
def test_what_has_settled_is_never_taken_back(overlap_s: float) -> None:
    chance = random.Random(0)
    for _ in range(300):
        joining, told, start = Joining(), "", 0.0
        pieces = []
        for _ in range(chance.randint(1, 6)):
            pieces.append(Piece(round(start * RATE), round((start + 2) * RATE)))
            start += 2 - overlap_s * chance.randint(0, 1)
        for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
            texts = [" ".join(chance.choices("abc", k=chance.randint(1, 5))) for _ in range(chance.randint(0, 2))]
            joining.add(piece, [Segment(0.0, 2.0, text, (), 0.0, 0.0) for text in texts])
            settled = joining.settled(following)
            assert joining.text.startswith(told) and settled == joining.text[: len(settled)]
            told = max(told, settled, key=len)
        assert told == joining.text == " ".join(segment.text for segment in joining.segments)


def test_words_that_the_next_window_may_cut_off_wait_for_it() -> None:
    joining = Joining()

    def told(start: float, text: str, following: float | None) -> str:
        at = [Piece(round(each * RATE), round((each + 2) * RATE)) for each in (start, following or 0.0)]
        joining.add(at[0], [Segment(start, start + 2, text, (), 0.0, 0.0)])
        return joining.settled(at[1] if following else None)

    assert told(0.0, "one two three fou", following=1.0) == "one two"
    assert told(1.0, "three four five", following=3.0) == "one two three four five"
    assert told(3.0, "six", following=None) == "one two three four five six"
