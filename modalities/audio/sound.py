"""Bytes to samples, safely: the length is bounded before and while a recording is decoded, and no format is guessed.

wav, flac, mp3, ogg and aiff go through libsndfile (soundfile); m4a, mp4 and webm, told by their first bytes, through
FFmpeg's demuxer for just that (PyAV). FFmpeg is never left to guess: it knows playlists too, and would open what they
name. Resampling is `scipy.signal.resample_poly`, block by block: it is here already and cuts what would alias; soxr
and torchaudio would be one dependency more for the same words.
"""

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import soundfile
from av.container import InputContainer
from numpy.typing import NDArray
from scipy.signal import firwin, resample_poly

from moatelier.errors import DataError
from modalities.audio.config import RATE
from modalities.audio.levels import FULL_SCALE, Samples
from modalities.media import Media, base64_bytes, read_bounded, too_many_bytes, uri_bytes

MAX_BYTES = 256 * 2**20
"""Of an encoded recording."""
MAX_S = 3600.0
"""Of a decoded one, in seconds: 230 MB of samples."""
RATES = range(8_000, 192_001)
MAX_CHANNELS = 32
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".m4a", ".mp4", ".webm")

_SNDFILE = ("WAV", "WAVEX", "W64", "RF64", "FLAC", "OGG", "MP3", "AIFF")
_BLOCK = 1 << 18
_REMEDY = "Save it again as wav or flac."
_STREAMED = {0, 0x7FFF_FFFF, 0xFFFF_FFFF}
"""Sizes that stand in the header of a wav whose writer did not know how long it would become."""


@dataclass(frozen=True)
class Sound:
    """A decoded recording.

    Attributes:
        samples: Float32 in -1..1 at 16 kHz, the mean of all channels, `[samples]`.
        rate: Samples a second, as it was recorded.
        channels: As it was recorded.
        format: Such as `WAV` or `M4A`.
        clipped: Share of the recorded samples at full scale.
    """

    samples: Samples
    rate: int
    channels: int
    format: str
    clipped: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / RATE


def media() -> Media:
    """What is read as a recording."""
    return Media("audio", "audio/wav", SUFFIXES, MAX_BYTES, "Cut it into shorter recordings.")


def decode_sound(source: bytes | Path, name: str = "audio", max_s: float | None = None) -> Sound:
    """Decode a recording.

    Args:
        source: The encoded recording, or the file with it.
        name: What its owner calls it, for messages.
        max_s: Longest, in seconds; default and most: `MAX_S`.

    Raises:
        DataError: It is empty, too large or too long, of no known format, truncated or damaged; `where` is the name.
    """
    data = source if isinstance(source, bytes) else read_bounded(source, name, media())
    if not data:
        raise DataError("The audio file is empty.", where=name, remedy="Record or upload it again.")
    if len(data) > MAX_BYTES:
        raise too_many_bytes(name, media())
    limit = _Limit(name, MAX_S if max_s is None else min(MAX_S, max_s))
    container = _container(data)
    sound = _by_ffmpeg(data, container, limit) if container else _by_sndfile(data, limit)
    if not len(sound.samples):
        raise DataError("The recording has no samples.", where=name, remedy=_REMEDY)
    if not np.isfinite(sound.samples).all():
        raise DataError("The recording has samples that are no numbers.", where=name, remedy=_REMEDY)
    return sound


def decode_uri(uri: str, name: str = "audio_url", max_s: float | None = None) -> Sound:
    """Decode a recording in a data URI. Nothing is ever fetched.

    Raises:
        InvalidRequest: It is no data URI of audio in base64.
        DataError: See `decode_sound`.
    """
    return decode_sound(uri_bytes(uri, name, media()), name, max_s)


def decode_base64(text: str, name: str = "input_audio", max_s: float | None = None) -> Sound:
    """Decode a recording in base64, as chat's `input_audio` brings it. Raises like `decode_uri`."""
    return decode_sound(base64_bytes(text, name, media()), name, max_s)


# ---------------------------------------------------------------- decoding


@dataclass(frozen=True)
class _Limit:
    """How long a recording may be; refuses by header and while it is decoded."""

    name: str
    max_s: float

    def check(self, seconds: float) -> None:
        if seconds > self.max_s:
            raise DataError(
                f"The recording has {seconds:,.0f} s or more, where {self.max_s:,.0f} s are allowed.",
                where=self.name,
                remedy="Cut it into shorter recordings.",
            )

    def check_form(self, rate: int, channels: int) -> None:
        if rate not in RATES:
            raise DataError(
                f"The recording has {rate:,} samples a second, which is not 8,000 to 192,000.",
                where=self.name,
                remedy="Save it with 16,000 a second.",
            )
        if not 1 <= channels <= MAX_CHANNELS:
            raise DataError(
                f"The recording has {channels} channels.", where=self.name, remedy="Save it with one channel."
            )

    def damaged(self, error: object) -> DataError:
        return DataError(f"The recording is damaged: {error}.", where=self.name, remedy=_REMEDY)


def _container(data: bytes) -> str:
    """FFmpeg's name of a container that libsndfile cannot read; "" for all others."""
    if data[4:8] == b"ftyp":
        return "mp4"
    return "webm" if data[:4] == b"\x1a\x45\xdf\xa3" else ""


def _by_sndfile(data: bytes, limit: _Limit) -> Sound:
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except (soundfile.SoundFileError, ValueError, TypeError) as error:
        raise DataError(
            "The file is no recording of a known format.",
            where=limit.name,
            remedy="Known are wav, flac, mp3, ogg, aiff, m4a and webm, by their content, whatever the name says.",
        ) from error
    with file:
        if file.format not in _SNDFILE:
            raise DataError(f"Recordings of the format {file.format} are not read.", where=limit.name, remedy=_REMEDY)
        limit.check_form(file.samplerate, file.channels)
        limit.check(file.frames / file.samplerate)
        _require_whole(file, limit)
        meter = _Meter()
        try:
            samples = _resampled(_blocks(file, meter, limit), file.samplerate)
        except soundfile.SoundFileError as error:
            raise limit.damaged(str(error).rstrip(".")) from error
        if meter.frames < file.frames * 0.99 - 2000:  # the count of an mp3 is an estimate
            raise _truncated(limit.name, meter.frames / file.samplerate, file.frames / file.samplerate)
        return Sound(samples, file.samplerate, file.channels, file.format, meter.clipped)


def _require_whole(file: soundfile.SoundFile, limit: _Limit) -> None:
    """Refuse a wav whose header promises more bytes than there are; libsndfile would take what is left in silence."""
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if found and int(found[1]) not in _STREAMED and int(found[1]) > int(found[2]) + 64 and file.frames:
        seconds = file.frames / file.samplerate
        raise _truncated(limit.name, seconds, seconds * int(found[1]) / max(1, int(found[2])))


def _truncated(name: str, there: float, promised: float) -> DataError:
    return DataError(
        f"The recording is truncated: it has {there:.2f} s of {promised:.2f} s.", where=name, remedy="Upload it again."
    )


@dataclass
class _Meter:
    """Counts on the way what is lost afterwards."""

    frames: int = 0
    values: int = 0
    full: int = 0

    def mono(self, block: NDArray[np.float32]) -> Samples:
        """The mean of the channels of `[frames, channels]`."""
        self.frames += len(block)
        self.values += block.size
        self.full += int((np.abs(block) >= FULL_SCALE).sum())
        mixed: Samples = np.clip(block.mean(axis=1, dtype=np.float32), -1, 1)
        return mixed

    @property
    def clipped(self) -> float:
        return self.full / max(1, self.values)


def _blocks(file: soundfile.SoundFile, meter: _Meter, limit: _Limit) -> Iterator[Samples]:
    frames = max(1024, _BLOCK // file.channels)
    while len(block := file.read(frames, dtype="float32", always_2d=True)):
        yield meter.mono(block)
        limit.check(meter.frames / file.samplerate)


def _by_ffmpeg(data: bytes, container: str, limit: _Limit) -> Sound:
    try:
        with av.open(io.BytesIO(data), "r", format=container, metadata_errors="ignore") as file:
            if not file.streams.audio:
                raise DataError("The file has no sound.", where=limit.name, remedy=_REMEDY)
            stream = file.streams.audio[0]
            limit.check((file.duration or 0) / av.time_base)
            limit.check_form(stream.rate, stream.channels)
            meter = _Meter()
            samples = _resampled(_frames(file, meter, limit), stream.rate)
            name = "M4A" if container == "mp4" else "WEBM"
            return Sound(samples, stream.rate, stream.channels, name, meter.clipped)
    except av.FFmpegError as error:
        raise limit.damaged(error.strerror) from error


def _frames(file: InputContainer, meter: _Meter, limit: _Limit) -> Iterator[Samples]:
    floats = av.AudioResampler(format="fltp")
    for frame in file.decode(audio=0):
        for plain in floats.resample(frame):
            yield meter.mono(np.asarray(plain.to_ndarray().T, np.float32))
            limit.check(meter.frames / plain.sample_rate)


# ---------------------------------------------------------------- resampling


def _resampled(blocks: Iterator[Samples], rate: int) -> Samples:
    parts = list(blocks if rate == RATE else _at_rate(blocks, rate))
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _at_rate(blocks: Iterator[Samples], rate: int) -> Iterator[Samples]:
    """Resample block by block, with the same result as at once: each block is seen with what surrounds it."""
    shared = math.gcd(rate, RATE)
    up, down = RATE // shared, rate // shared
    taps = _filter(up, down)
    around = down * math.ceil((len(taps) // 2 / up + 1) / down)
    step = down * math.ceil(_BLOCK / down)
    first = around * up // down
    pending = np.zeros(around, np.float32)
    for block in blocks:
        pending = np.concatenate([pending, block])
        while len(pending) >= step + 2 * around:
            out = resample_poly(pending[: step + 2 * around], up, down, window=taps)
            yield out[first : first + step * up // down]
            pending = pending[step:]
    rest = math.ceil((len(pending) - around) * up / down)
    padded = np.concatenate([pending, np.zeros(around, np.float32)])
    yield resample_poly(padded, up, down, window=taps)[first : first + rest]


@lru_cache(maxsize=16)
def _filter(up: int, down: int) -> NDArray[np.float32]:
    """The low-pass filter that `resample_poly` would design for every block anew."""
    most = max(up, down)
    taps: NDArray[np.float32] = firwin(20 * most + 1, 1 / most, window=("kaiser", 5.0)).astype(np.float32)
    return taps
