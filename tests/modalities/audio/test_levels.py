import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moatelier.errors import InvalidRequest
from modalities.audio.config import RATE, positions, samples
from modalities.audio.levels import Piece, clipped_share, cut, is_silent, levels, silent_share, trim
from tests.sounding import speech, tone


def quiet(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def test_levels_are_decibels_below_full_scale() -> None:
    assert levels(tone(1, 1000, level=1.0)) == pytest.approx([-3.01] * 50, abs=0.05)
    assert levels(tone(1, 1000, level=0.1)) == pytest.approx([-23.01] * 50, abs=0.05)
    assert levels(quiet(0.05)).tolist() == [-120.0] * 3 and levels(quiet(0)).shape == (0,)


def test_silence_is_told_from_sound() -> None:
    noise = np.random.default_rng(0).normal(0, 1e-4, RATE).astype(np.float32)
    assert is_silent(quiet(1)) and is_silent(quiet(0)) and is_silent(noise) and not is_silent(tone(0.1, level=0.01))
    assert silent_share(np.concatenate([tone(1), quiet(3)])) == pytest.approx(0.75)
    assert silent_share(quiet(1)) == silent_share(quiet(0)) == 1
    assert clipped_share(np.array([1, -1, 0.5, 0], np.float32)) == 0.5 and clipped_share(quiet(0)) == 0


def test_silence_at_the_ends_goes_but_for_a_margin() -> None:
    sound = np.concatenate([quiet(1), tone(2), quiet(0.05), tone(1), quiet(3)])
    start, stop = trim(sound)
    assert (start / RATE, stop / RATE) == pytest.approx((0.9, 4.15), abs=0.021)
    assert trim(quiet(2)) == (0, 0) and trim(tone(1)) == (0, RATE)


def test_what_fits_the_window_is_left_as_it_is() -> None:
    sound = np.concatenate([quiet(1), tone(1)])
    assert cut(sound, 2.0) == [Piece(0, 2 * RATE)]
    assert cut(quiet(2), 2.0) == cut(quiet(9), 2.0) == []


def test_a_long_recording_loses_its_silent_ends_before_it_is_cut() -> None:
    sound = np.concatenate([quiet(5), tone(1), quiet(5)])
    [piece] = cut(sound, 2.0)
    assert not piece.overlaps and (piece.stop - piece.start) / RATE == pytest.approx(1.2, abs=0.05)


def test_it_is_cut_in_pauses_and_overlaps_where_there_is_none() -> None:
    words = np.concatenate([np.concatenate([tone(0.7), quiet(0.3)]) for _ in range(9)])
    pieces = cut(words, 3.0)
    assert not any(piece.overlaps for piece in pieces)
    assert all(left.stop == right.start for left, right in zip(pieces, pieces[1:], strict=False))
    assert all(np.abs(words[piece.stop - 200 : piece.stop]).max() == 0 for piece in pieces)
    through = cut(tone(8), 3.0)
    assert [piece.overlaps for piece in through] == [False, True, True, True]
    assert all(right.start == left.stop - round(0.6 * RATE) for left, right in zip(through, through[1:], strict=False))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 20), st.floats(0.5, 5), st.integers(0, 5))
def test_pieces_fit_and_leave_no_sound_out(seconds: float, window: float, seed: int) -> None:
    sound = speech(seconds, seed)
    heard = np.zeros(len(sound), bool)
    for piece in cut(sound, window):
        assert 0 <= piece.start < piece.stop <= len(sound) and piece.stop - piece.start <= samples(window)
        heard[piece.start : piece.stop] = True
    loud = np.abs(sound) > 0.05
    assert not (loud & ~heard).any()


def test_windows_are_counted_in_positions() -> None:
    assert positions(3.0) == 150 and samples(3.0) == 48_000 and positions(30) == 1500 and positions(0.02) == 1
    for wrong in (0.0, -1.0, 30.1):
        with pytest.raises(InvalidRequest, match="cannot hear a window"):
            positions(wrong)
