"""Other ways the same words might have been heard: faster or slower, in noise, with parts of the spectrum missing.

Pure functions of their arguments: the same seed gives the same result, whatever was drawn before.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.signal import resample_poly
from torch import Tensor

from modalities.audio.levels import Samples


@dataclass(frozen=True)
class Policy:
    """What may happen to a recording in training.

    Attributes:
        speeds: One is drawn; 1.1 is a tenth faster and higher (Ko et al. 2015, "Audio augmentation for speech
            recognition").
        noise_db: Lowest and highest level of the speech above white noise, in dB; None adds none.
        bands: How many bands of mels are masked, and how wide each may be at most.
        gaps: How many stretches of time are masked, and how much of the recording each may be at most.
    """

    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    noise_db: tuple[float, float] | None = (15.0, 40.0)
    bands: tuple[int, int] = (2, 15)
    gaps: tuple[int, float] = (2, 0.1)


def vary(sound: Samples, seed: int, policy: Policy) -> Samples:
    """The recording at another speed and in noise; `[samples]`, more or fewer than before."""
    chance = np.random.default_rng(seed)
    varied = change_speed(sound, float(chance.choice(policy.speeds)))
    if policy.noise_db is None:
        return varied
    return add_noise(varied, float(chance.uniform(*policy.noise_db)), int(chance.integers(2**63)))


def change_speed(sound: Samples, speed: float) -> Samples:
    """Play it faster (above 1) or slower, and so higher or lower; `[samples / speed]`, rounded up."""
    ratio = Fraction(speed).limit_denominator(100)
    if ratio == 1:
        return sound
    changed: Samples = resample_poly(sound, ratio.denominator, ratio.numerator).astype(np.float32)
    return np.clip(changed, -1, 1)


def add_noise(sound: Samples, above_db: float, seed: int) -> Samples:
    """Add white noise so that the recording is `above_db` louder than it; silence stays silent."""
    power = float(np.square(sound, dtype=np.float64).mean()) if len(sound) else 0.0
    if not power:
        return sound
    level = np.sqrt(power / 10 ** (above_db / 10))
    noise = np.random.default_rng(seed).standard_normal(len(sound), dtype=np.float32) * np.float32(level)
    return np.clip(sound + noise, -1, 1)


def mask_spectrum(mel: Tensor, seed: int, policy: Policy, frames: int | None = None) -> Tensor:
    """SpecAugment without warping (Park et al. 2019, arXiv 1904.08779): bands and stretches get the mean value.

    Args:
        mel: Log-mel spectrogram, `[mels, frames]`.
        seed: Draws what is masked.
        policy: How much of it.
        frames: How many of the frames hold the recording; the rest of a window is silence. Default: all.

    Returns:
        A new tensor of the same shape.
    """
    chance = np.random.default_rng(seed)
    masked, mean = mel.clone(), mel.mean()
    length = mel.shape[1] if frames is None else min(frames, mel.shape[1])
    bands, widest = policy.bands
    gaps, share = policy.gaps
    for _ in range(bands):
        start, stop = _stretch(chance, mel.shape[0], widest)
        masked[start:stop] = mean
    for _ in range(gaps):
        start, stop = _stretch(chance, length, int(length * share))
        masked[:, start:stop] = mean
    return masked


def _stretch(chance: np.random.Generator, length: int, most: int) -> tuple[int, int]:
    size = int(chance.integers(min(most, length) + 1))
    start = int(chance.integers(length - size + 1))
    return start, start + size
