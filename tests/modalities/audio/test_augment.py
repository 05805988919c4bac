import numpy as np
import pytest
import torch

from modalities.audio.augment import Policy, add_noise, change_speed, mask_spectrum, vary
from tests.sounding import speech, tone


def test_speed_changes_length_and_pitch() -> None:
    sound = tone(1.0, 440)
    fast = change_speed(sound, 1.1)
    assert len(fast) == pytest.approx(16_000 / 1.1, abs=1) and np.abs(fast).max() <= 1
    spectrum = np.abs(np.fft.rfft(fast[2000:12_000]))
    assert spectrum.argmax() * 16_000 / 10_000 == pytest.approx(484, abs=2)
    assert change_speed(sound, 1.0) is sound and len(change_speed(sound, 0.9)) > 17_700


def test_noise_lies_so_far_below_the_speech() -> None:
    sound = speech(2.0)
    noise = add_noise(sound, 20.0, 1) - sound
    assert 10 * np.log10(np.square(sound).mean() / np.square(noise).mean()) == pytest.approx(20, abs=0.2)
    assert np.array_equal(add_noise(np.zeros(99, np.float32), 20.0, 1), np.zeros(99))
    assert len(add_noise(sound[:0], 20.0, 1)) == 0


def test_seeds_decide_alone() -> None:
    sound, mel, policy = speech(1.0), torch.randn(80, 300), Policy()
    assert np.array_equal(vary(sound, 3, policy), vary(sound, 3, policy))
    assert torch.equal(mask_spectrum(mel, 3, policy), mask_spectrum(mel, 3, policy))
    assert len({len(vary(sound, seed, policy)) for seed in range(20)}) == 3
    assert any(not torch.equal(mask_spectrum(mel, 3, policy), mask_spectrum(mel, seed, policy)) for seed in range(9))
    calm = Policy(speeds=(1.0,), noise_db=None, bands=(0, 0), gaps=(0, 0.0))
    assert vary(sound, 1, calm) is sound and torch.equal(mask_spectrum(mel, 1, calm), mel)


@pytest.mark.parametrize("seed", range(10))
def test_masks_are_bands_and_stretches_of_the_mean(seed: int) -> None:
    mel = torch.randn(80, 300)
    masked = mask_spectrum(mel, seed, Policy(bands=(1, 15), gaps=(1, 0.1)), frames=100)
    changed = masked != mel
    rows, columns = changed.all(1), changed.all(0)
    assert rows.sum() <= 15 and columns.sum() <= 10 and not columns[100:].any()
    assert (masked[changed] == mel.mean()).all() and not (changed & ~rows[:, None] & ~columns[None]).any()
    assert mask_spectrum(mel, seed, Policy(), frames=1000).shape == mel.shape
