"""How loud a recording is, from moment to moment: silence, its trimming, clipping, and where a long one may be cut.

Samples are float32 in -1..1 at 16 kHz, one channel. Levels are the root mean square of frames of 20 ms, in dB below
full scale. Nothing here imports torch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modalities.audio.config import RATE, samples

Samples = NDArray[np.float32]

FRAME = RATE // 50
SILENCE_DB = -60.0
"""Below this a frame is silent, whatever the rest is like: 16 bits end at -90, a quiet room is at about -60."""
BELOW_LOUDEST_DB = 40.0
"""So far below the loudest frame a frame is taken for a pause."""
MARGIN_S = 0.1
"""Of what is trimmed, this much is left at each end: consonants are quiet."""
FULL_SCALE = 0.999
_FLOOR_DB = -120.0


@dataclass(frozen=True)
class Piece:
    """A part of a recording that fits into the window.

    Attributes:
        start: Its first sample.
        stop: One behind its last.
        overlaps: Whether its beginning repeats the end of the piece before, because no pause was found to cut at.
    """

    start: int
    stop: int
    overlaps: bool = False


def levels(sound: Samples) -> NDArray[np.float64]:
    """The level of each frame, `[frames]` in dB, at least -120; the last frame may be shorter."""
    if not len(sound):
        return np.zeros(0)
    starts = np.arange(0, len(sound), FRAME)
    energy = np.add.reduceat(np.square(sound, dtype=np.float64), starts)
    lengths = np.diff(np.append(starts, len(sound)))
    found: NDArray[np.float64] = np.maximum(10 * np.log10(np.maximum(energy / lengths, 1e-30)), _FLOOR_DB)
    return found


def is_silent(sound: Samples) -> bool:
    """Whether no frame is louder than silence."""
    return bool((levels(sound) < SILENCE_DB).all())


def silent_share(sound: Samples) -> float:
    """The share of frames that are silence or a pause, from 0 to 1; 1 for a silent or empty recording."""
    found = levels(sound)
    return float((found < _pause_db(found)).mean()) if len(found) else 1.0


def clipped_share(sound: Samples) -> float:
    """The share of samples at full scale, from 0 to 1."""
    return float((np.abs(sound) >= FULL_SCALE).mean()) if len(sound) else 0.0


def trim(sound: Samples) -> tuple[int, int]:
    """Start and stop, in samples, of what is left without the silence at both ends; (0, 0) for a silent recording."""
    found = levels(sound)
    loud = np.flatnonzero(found >= _pause_db(found))
    if not len(loud):
        return 0, 0
    margin = round(MARGIN_S * RATE)
    return max(0, int(loud[0]) * FRAME - margin), min(len(sound), (int(loud[-1]) + 1) * FRAME + margin)


def cut(sound: Samples, window_s: float, overlap_s: float | None = None) -> list[Piece]:
    """Cut a recording into pieces that fit into a window.

    What fits is left as it is. What does not loses the silence at its ends, and if it is still too long it is cut at
    the quietest moment of the last `overlap_s` of each window; where that moment is no pause, the next piece begins
    `overlap_s` earlier, so that a word which was cut in two stands whole in one of them.

    Args:
        sound: The recording.
        window_s: Longest piece, in seconds.
        overlap_s: In seconds; default: a fifth of the window, at most 2 s.

    Raises:
        InvalidRequest: Whisper cannot hear such a window.
    """
    size = samples(window_s)
    if len(sound) <= size:
        return [Piece(0, len(sound))] if not is_silent(sound) else []
    start, end = trim(sound)
    overlap = round((min(2.0, window_s / 5) if overlap_s is None else overlap_s) * RATE)
    pause_db = _pause_db(levels(sound))
    pieces: list[Piece] = []
    overlaps = False
    while end - start > size:
        quietest, level = _quietest(sound, start + size - overlap, start + size)
        paused = level < pause_db
        pieces.append(Piece(start, quietest if paused else start + size, overlaps))
        start = quietest if paused else start + size - overlap
        overlaps = not paused
    if start < end:
        pieces.append(Piece(start, end, overlaps))
    return [piece for piece in pieces if not is_silent(sound[piece.start : piece.stop])]


def _quietest(sound: Samples, start: int, stop: int) -> tuple[int, float]:
    """The middle of the quietest frame between two samples, and its level in dB; the last one if there are several."""
    found = levels(sound[start:stop])
    if not len(found):
        return stop, 0.0
    frame = len(found) - 1 - int(found[::-1].argmin())
    return min(stop, start + frame * FRAME + FRAME // 2), float(found[frame])


def _pause_db(found: NDArray[np.float64]) -> float:
    return max(SILENCE_DB, float(found.max(initial=_FLOOR_DB)) - BELOW_LOUDEST_DB)
