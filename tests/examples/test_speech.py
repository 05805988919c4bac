import csv
import io
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from examples.making import espeak, sets
from examples.making.espeak import Line, speak
from examples.making.shapes import NAMES
from examples.making.speech import LONGEST_S, SAMPLE_RATE, SHORTEST_S, SPEAKERS, UNSEEN, record
from moatelier.errors import ModelUnavailable
from modalities.audio.levels import clipped_share, is_silent


def made(count: int, seed: int = 0) -> tuple[dict[str, bytes], list[dict[str, str]]]:
    files = dict(sets.speech(count, seed))
    return files, list(csv.DictReader(files.pop("index.csv").decode().splitlines()))


def test_the_same_seed_speaks_the_same_bytes(spoken: None) -> None:
    files, rows = made(30)
    again, _ = made(30)
    more, _ = made(40)
    other, _ = made(30, seed=1)
    assert files == again and files.items() <= more.items() and not set(files.values()) & set(other.values())
    assert sorted(files) == sorted(row["audio"] for row in rows)


def test_every_speaker_says_every_word_equally_often(spoken: None) -> None:
    _, rows = made(len(NAMES) * len(SPEAKERS))
    assert Counter(row["label"] for row in rows) == dict.fromkeys(NAMES, len(SPEAKERS))
    assert Counter(row["speaker"] for row in rows) == dict.fromkeys(SPEAKERS, len(NAMES))
    assert len({(row["speaker"], row["text"]) for row in rows}) == len(rows)
    assert all(row["text"] == row["label"] == row["audio"].split("/")[0] for row in rows)
    assert {row["licence"] for row in rows} == {"CC0-1.0"}


def test_a_recording_is_heard(spoken: None) -> None:
    """In every voice: 0.3 to 2 s, one channel at 16 kHz, a word above a noise, not clipped."""
    turns = [(NAMES[n % len(NAMES)], name) for n, name in enumerate(SPEAKERS | UNSEEN)]
    sounds = []
    for recording in record(turns, "all voices"):
        samples, rate = soundfile.read(io.BytesIO(recording.wav()), dtype="float32", always_2d=True)
        assert rate == SAMPLE_RATE == 16000 and samples.shape[1] == 1
        assert SHORTEST_S <= len(samples) / rate <= LONGEST_S and len(samples) / rate == recording.seconds
        sound = samples[:, 0]
        assert not is_silent(sound) and clipped_share(sound) < 0.001
        assert np.abs(sound).max() > 5 * np.abs(sound[: rate // 20]).max(), "the word stands out from the room"
        sounds.append(sound.tobytes())
    assert len(set(sounds)) == len(turns)


def test_voices_of_pairs_speak_nowhere_else() -> None:
    assert not set(SPEAKERS) & set(UNSEEN)
    voices = [speaker.voice.partition("+")[2] for speaker in (SPEAKERS | UNSEEN).values()]
    assert len(set(voices)) == len(voices)


def test_a_breathy_voice_has_the_same_breath_each_time(spoken: None) -> None:
    lines = [Line("ring", "en-us+f2"), Line("moon", "en-us+f5", speed=140, pitch=60)]
    first, second = speak(lines), speak(lines)
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    assert min(len(samples) for samples in first) > 0.2 * espeak.RATE


@pytest.mark.parametrize("voice", ["en-us+nobody", "tlhingan"])
def test_an_unknown_voice_is_refused(spoken: None, voice: str) -> None:
    with pytest.raises(ModelUnavailable, match="no voice") as caught:
        speak([Line("star", "en-us"), Line("star", voice)])
    assert voice in caught.value.what and caught.value.remedy


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ModelUnavailable, match="not installed") as caught:
        list(sets.speech(10, 0))
    assert "make setup" in caught.value.remedy


@pytest.mark.parametrize(
    ("kept", "message"), [(0, "does not load"), (1000, "ended with -"), (None, "does not find its voices")]
)
def test_a_damaged_library_is_an_error_and_the_caller_lives(
    spoken: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: int | None, message: str
) -> None:
    """An empty file, one that was cut off, which kills its process, and a whole one without its voices."""
    file = Path(espeak.find_library()[0])
    library = tmp_path / file.name
    library.write_bytes(file.read_bytes()[:kept])
    monkeypatch.setattr(espeak, "find_library", lambda: (str(library), str(tmp_path)))
    with pytest.raises(ModelUnavailable, match=message) as caught:
        speak([Line("star", "en-us")])
    assert "espeakng-loader" in caught.value.remedy
