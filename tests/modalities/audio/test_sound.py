import base64
import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from scipy.signal import resample_poly

from moatelier.errors import DataError, InvalidRequest, MoatelierError
from modalities.audio import sound
from modalities.audio.levels import Samples
from modalities.audio.sound import decode_base64, decode_sound, decode_uri
from tests.sounding import sound_bytes, speech, tone


def alike(left: Samples, right: Samples) -> float:
    """The correlation of two recordings at their best shift of up to 100 ms: codecs begin late."""
    size = min(len(left), len(right)) - 1600
    found = np.correlate(left[: size + 1600], right[800 : size + 800])
    return float(found.max() / (np.linalg.norm(right[800 : size + 800]) * np.linalg.norm(left)))


def by_ffmpeg(samples: Samples, container: str, codec: str, rate: int = 48_000) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        for part in (frame, None):
            out.mux(stream.encode(part))
    return file.getvalue()


@pytest.mark.parametrize("form", ["WAV", "FLAC", "AIFF", "OGG", "MP3"])
def test_formats_of_libsndfile(form: str) -> None:
    said = speech(2.0)
    found = decode_sound(sound_bytes(said, form=form), f"said.{form.lower()}")
    assert (found.rate, found.channels, found.format) == (16_000, 1, form)
    assert found.seconds == pytest.approx(2.0, abs=0.05) and alike(found.samples, said) > 0.95
    if form in ("WAV", "FLAC", "AIFF"):
        assert np.abs(found.samples - said).max() < 1e-4


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("webm", "libopus")])
def test_formats_of_ffmpeg(container: str, codec: str) -> None:
    said = speech(2.0)
    found = decode_sound(by_ffmpeg(resample_poly(said, 3, 1).astype(np.float32), container, codec), "x")
    assert (found.rate, found.format) == (48_000, "M4A" if container == "mp4" else "WEBM")
    assert found.seconds == pytest.approx(2.0, abs=0.1) and alike(found.samples, said) > 0.9


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 44_101, 48_000, 96_000, 192_000])
def test_rates_become_16_khz(rate: int) -> None:
    found = decode_sound(sound_bytes(tone(1.0, 440, rate), rate), "x.wav")
    assert found.rate == rate and found.seconds == pytest.approx(1.0, abs=0.001)
    middle = slice(2000, 14_000)
    assert np.abs(found.samples[middle] - tone(1.0)[middle]).max() < 0.01


def test_what_would_alias_is_cut() -> None:
    found = decode_sound(sound_bytes(tone(1.0, 11_000, 48_000), 48_000), "x.wav")
    assert np.abs(found.samples[2000:14_000]).max() < 0.005


def test_blocks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    data = sound_bytes(speech(3.0, rate=44_100), 44_100)
    whole = decode_sound(data).samples
    monkeypatch.setattr(sound, "_BLOCK", 5000)
    assert np.allclose(decode_sound(data).samples, whole, atol=1e-6)


def test_channels_are_mixed_and_clipping_is_counted() -> None:
    left, right = tone(1.0, level=0.8), np.zeros(16_000, np.float32)
    found = decode_sound(sound_bytes(np.stack([left, right], axis=1)))
    assert found.channels == 2 and np.abs(found.samples - left / 2).max() < 1e-4 and found.clipped == 0
    loud = np.clip(tone(1.0, level=3.0), -1, 1)
    assert 0.5 < decode_sound(sound_bytes(loud)).clipped < 0.9
    eight = decode_sound(sound_bytes(np.stack([left] * 8, axis=1), subtype="FLOAT"))
    assert eight.channels == 8 and np.abs(eight.samples - left).max() < 1e-6


WAV = sound_bytes(speech(2.0))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (b"This is a text file.\n" * 50, "no recording of a known format"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\nfile:///etc/passwd\n", "no recording of a known format"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "no recording of a known format"),
        (WAV[:20], "no recording of a known format"),
        (WAV[:44], "no samples"),
        (WAV[: len(WAV) // 2], r"truncated: it has 1\.00 s of 2\.00 s"),
        (sound_bytes(speech(2.0), form="FLAC")[:20_000], "is damaged|truncated"),
        (sound_bytes(speech(2.0), form="MP3")[:4_000], "truncated"),
        (by_ffmpeg(tone(1.0, rate=48_000), "mp4", "aac")[:3000], "is damaged"),
        (b"\x1a\x45\xdf\xa3" + bytes(200), "is damaged"),
        (sound_bytes(tone(1.0, rate=4_000), 4_000), "4,000 samples a second"),
        (sound_bytes(tone(0.1, rate=384_000), 384_000), "384,000 samples a second"),
        (sound_bytes(np.zeros((100, 40), np.float32)), "40 channels"),
        (sound_bytes(np.full(1000, np.nan, np.float32), subtype="FLOAT"), "no numbers"),
        (sound_bytes(tone(1.0), form="AU"), "format AU are not read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        decode_sound(data, "calls/one.wav")
    assert caught.value.where == "calls/one.wav" and caught.value.remedy


def test_hours_are_refused_by_the_header_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = sound_bytes(np.zeros(8_000 * 3_700, np.float32), 8_000, "FLAC")
    monkeypatch.setattr(sound, "_blocks", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match="3,700 s or more, where 3,600 s are allowed"):
        decode_sound(hours)
    with pytest.raises(DataError, match="2 s or more, where 1 s are allowed"):
        decode_sound(WAV, max_s=1.0)


def test_a_wav_that_promises_ten_hours_and_has_none_is_refused() -> None:
    header = bytearray(WAV[:44])
    struct.pack_into("<I", header, 4, 36_000 * 32_000 + 36)
    struct.pack_into("<I", header, 40, 36_000 * 32_000)
    with pytest.raises(DataError, match=r"truncated: it has 0\.10 s of 36000\.00 s"):
        decode_sound(bytes(header) + bytes(3200))


def test_a_header_that_lies_is_caught_while_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    # An mp4 may say that it is short; what counts is what comes out.
    data = by_ffmpeg(tone(3.0, rate=48_000), "webm", "libopus")
    monkeypatch.setattr(sound.av, "time_base", 10**12)
    with pytest.raises(DataError, match="s are allowed"):
        decode_sound(data, max_s=1.0)


def test_too_many_bytes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.wav").write_bytes(WAV)
    assert decode_sound(tmp_path / "a.wav", "a.wav").seconds == 2
    monkeypatch.setattr(sound, "MAX_BYTES", 1000)
    for source in (tmp_path / "a.wav", WAV):
        with pytest.raises(DataError, match="audio file has more than"):
            decode_sound(source, "a.wav")
    with pytest.raises(DataError, match="No such file"):
        decode_sound(tmp_path / "none.wav", "none.wav")


def test_streamed_wavs_have_no_length_in_their_header() -> None:
    for size in (0x7FFF_FFFF, 0xFFFF_FFFF):
        data = bytearray(WAV)
        struct.pack_into("<I", data, 40, size)
        assert decode_sound(bytes(data)).seconds == 2


def test_data_uris_are_decoded_and_urls_are_not_followed() -> None:
    text = base64.b64encode(WAV).decode()
    assert decode_uri(f"data:audio/wav;base64,{text}").seconds == decode_base64(text).seconds == 2
    for uri, told in (
        ("https://example.com/a.wav", "is a URL"),
        ("file:///etc/passwd", "is a URL"),
        ("a.wav", "no data URI"),
        ("data:image/png;base64,aGk=", "no data URI"),
        (f"data:audio/wav;base64,{text[:-5]}*", "base64 is broken"),
    ):
        with pytest.raises(InvalidRequest, match=told):
            decode_uri(uri, "messages[0].content[1]")
    with pytest.raises(InvalidRequest, match="base64 is broken"):
        decode_base64("no base64!")


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_never_raise_anything_else(seed: int) -> None:
    chance = np.random.default_rng(seed)
    said = speech(0.5)
    made = [sound_bytes(said, form=form) for form in ("WAV", "FLAC", "OGG", "MP3", "AIFF")]
    made += [by_ffmpeg(said, "mp4", "aac"), by_ffmpeg(said, "webm", "libopus")]
    data = bytearray(made[seed % len(made)])
    for place in chance.integers(0, min(len(data), 400 if seed % 2 else len(data)), 12):
        data[place] = chance.integers(256)
    try:
        assert np.isfinite(decode_sound(bytes(data)).samples).all()
    except MoatelierError as error:
        assert isinstance(error, DataError)
