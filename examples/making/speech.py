"""Recordings of one word each, the names of the shapes, by many voices: spoken by espeak-ng, by seed."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

from examples.dice import Dice
from examples.making.espeak import RATE, Line, speak

SAMPLE_RATE = 16000
_UP, _DOWN = 320, 441
"""16,000 / 22,050, shortened."""
assert RATE * _UP == SAMPLE_RATE * _DOWN
SHORTEST_S, LONGEST_S = 0.3, 2.0
_QUIET = 0.01


class Speaker(NamedTuple):
    """Who speaks: a voice of espeak-ng, and the middle of its speed (words a minute) and pitch (0 to 99)."""

    voice: str
    speed: int
    pitch: int


SPEAKERS: dict[str, Speaker] = {
    "ada": Speaker("en-us+f2", 160, 50),
    "ben": Speaker("en-us+m3", 165, 45),
    "cora": Speaker("en+f4", 150, 55),
    "dan": Speaker("en+m7", 170, 50),
    "eve": Speaker("en-us+Annie", 155, 50),
    "finn": Speaker("en-us+Gene", 150, 55),
    "gwen": Speaker("en-us+belinda", 165, 45),
    "hal": Speaker("en+max", 160, 60),
    "iris": Speaker("en-us+linda", 150, 40),
    "jack": Speaker("en-us+adam", 165, 65),
    "kim": Speaker("en-us+steph2", 160, 50),
    "leo": Speaker("en-us+edward", 155, 60),
    "mia": Speaker("en+f1", 165, 55),
    "ned": Speaker("en-us+michel", 160, 45),
    "olga": Speaker("en-us+grandma", 150, 50),
    "paul": Speaker("en-gb-scotland+m1", 155, 60),
}
"""The voices of `recordings`."""
UNSEEN: dict[str, Speaker] = {
    "ruth": Speaker("en-us+f5", 155, 50),
    "sam": Speaker("en-us+m5", 160, 55),
    "tess": Speaker("en+aunty", 155, 50),
    "urs": Speaker("en-us+benjamin", 165, 55),
    "vera": Speaker("en-us+Andrea", 150, 45),
    "will": Speaker("en-us+travis", 160, 50),
}
"""Voices that speak in pairs alone, so that no adapter has heard them."""


class Recording(NamedTuple):
    """What is said and who says it.

    Attributes:
        samples: 16-bit, one channel, `SAMPLE_RATE` a second.
        text: The word.
        speaker: A name of `SPEAKERS` or `UNSEEN`.
    """

    samples: NDArray[np.int16]
    text: str
    speaker: str

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / SAMPLE_RATE

    def wav(self) -> bytes:
        """The recording as a file."""
        file = io.BytesIO()
        soundfile.write(file, self.samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
        return file.getvalue()


def record(words: Sequence[str], speakers: Sequence[Speaker], names: Sequence[str], dice: Dice) -> list[Recording]:
    """Recordings of words, each in its speaker's voice, at a speed, pitch and loudness of the moment.

    Args:
        words: What to say.
        speakers: Who says each.
        names: What each speaker is called.
        dice: All chance comes from it.

    Raises:
        ModelUnavailable: See `espeak.speak`.
    """
    lines = [
        Line(word, voice, round(speed * dice.between(0.85, 1.15)), pitch + dice.below(21) - 10, 30 + dice.below(41))
        for word, (voice, speed, pitch) in zip(words, speakers, strict=True)
    ]
    return [
        Recording(_in_a_room(samples, dice), word, name)
        for samples, word, name in zip(speak(lines), words, names, strict=True)
    ]


def _in_a_room(spoken: NDArray[np.int16], dice: Dice) -> NDArray[np.int16]:
    """A voice at 16 kHz, with a moment before and after it, at some loudness, over a light noise."""
    voice = resample_poly(spoken.astype(np.float64) / 32768, _UP, _DOWN)
    loud = np.flatnonzero(np.abs(voice) > _QUIET)
    voice = voice[loud[0] : loud[-1] + 1]
    before, after = (round(dice.between(0.08, 0.25) * SAMPLE_RATE) for _ in range(2))
    room = round(LONGEST_S * SAMPLE_RATE) - before - after
    sound = np.concatenate([np.zeros(before), voice[:room], np.zeros(after)])
    sound *= dice.between(0.15, 0.8) / np.abs(sound).max()
    level = np.sqrt(np.mean(voice**2)) / np.abs(voice).max() * np.abs(sound).max()
    noise = np.random.default_rng(dice.below(2**32)).normal(0, level * 10 ** (-dice.between(18, 40) / 20), len(sound))
    return np.rint(np.clip(sound + noise, -1, 1) * 32767).astype(np.int16)
