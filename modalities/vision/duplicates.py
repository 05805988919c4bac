"""What an image looks like in a few bytes, and which images look nearly the same.

Two images are near duplicates when their perceptual hashes (the signs of the 64 lowest frequencies of a cosine
transform, against their median; Zauner 2010, phash.org) differ in at most 8 bits, and their 16 x 16 thumbnails by at
most 24 of 255 on average. Among 1,600 CIFAR images that finds the one pair that shows the same picture, and it finds
again what was compressed, scaled, brightened by a tenth or shifted by a pixel; not what was mirrored or cropped.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.fft import dctn

from moatelier.ids import digest_bytes
from modalities.clusters import UnionFind

NEAR_BITS = 8
NEAR_VALUES = 24.0
_THUMB = 16
_PIECE = 256
"""Rows compared with all later ones at once: 256 x 100,000 hashes are 200 MB."""
_PLAIN = 2.5
"""Standard deviation, of 255, below which an image is one plain colour; noise of a JPEG stays below it."""


@dataclass(frozen=True)
class Look:
    """What an image looks like.

    Attributes:
        width: In pixels, after decoding.
        height: In pixels.
        pixels: SHA-256 of size and RGB values: equal images have equal ones, however they are encoded.
        bits: The perceptual hash, 64 bits.
        thumb: 16 x 16 RGB values.
        blank: It is one plain colour.
    """

    width: int
    height: int
    pixels: str
    bits: int
    thumb: bytes
    blank: bool

    @property
    def side(self) -> int:
        """The shorter one."""
        return min(self.width, self.height)


def pixel_digest(image: Image.Image) -> str:
    """SHA-256 of an RGB image's size and values."""
    return digest_bytes(f"{image.width}x{image.height}:".encode() + image.tobytes())


def look_at(image: Image.Image) -> Look:
    """Take down what an RGB image looks like."""
    width, height = image.size
    thumb = image.resize((_THUMB, _THUMB), Image.Resampling.BOX)
    return Look(
        width=width,
        height=height,
        pixels=pixel_digest(image),
        bits=_bits(image),
        thumb=thumb.tobytes(),
        blank=max(_deviations(image)) < _PLAIN,
    )


def _deviations(image: Image.Image) -> npt.NDArray[np.float64]:
    """Standard deviation of each channel, from its histogram."""
    counts = np.asarray(image.histogram(), dtype=np.float64).reshape(3, 256) / (image.width * image.height)
    values = np.arange(256)
    variance = counts @ values**2 - (counts @ values) ** 2
    return np.sqrt(np.maximum(variance, 0))


def _bits(image: Image.Image) -> int:
    grey = image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    low = dctn(np.asarray(grey, dtype=np.float64), norm="ortho")[:8, :8].ravel()
    signs = low > np.median(low[1:])  # without the mean, which is no frequency
    return int.from_bytes(np.packbits(signs).tobytes(), "big")


def near_pairs(looks: Sequence[Look]) -> Iterator[tuple[int, int]]:
    """Pairs of positions whose images are near duplicates or equal; equal ones are chained.

    All pairs are compared, which takes seconds for tens of thousands of images.
    """
    by_pixels: dict[str, list[int]] = defaultdict(list)
    for position, look in enumerate(looks):
        by_pixels[look.pixels].append(position)
    for positions in by_pixels.values():
        yield from zip(positions, positions[1:], strict=False)
    firsts = [positions[0] for positions in by_pixels.values()]
    bits = np.array([looks[i].bits for i in firsts], dtype=np.uint64)
    thumbs = np.array([list(looks[i].thumb) for i in firsts], dtype=np.int16)
    for start in range(0, len(firsts), _PIECE):
        differing = np.bitwise_count(bits[start : start + _PIECE, None] ^ bits[None, start:])
        for left, right in np.argwhere(differing <= NEAR_BITS) + start:
            if left < right and np.abs(thumbs[left] - thumbs[right]).mean() <= NEAR_VALUES:
                yield firsts[left], firsts[right]


def near_clusters(looks: Sequence[Look]) -> list[list[int]]:
    """Clusters of two or more positions that are linked by near-duplicate pairs."""
    sets = UnionFind(len(looks))
    for left, right in near_pairs(looks):
        sets.join(left, right)
    return [members for members in sets.sets() if len(members) > 1]


def near_any(looks: Sequence[Look], others: Sequence[Look]) -> list[int]:
    """Positions of `looks` that nearly repeat one of `others`."""
    known = {look.pixels for look in others}
    near = {look.pixels for look in looks if look.pixels in known}
    both = [*looks, *others]
    for left, right in near_pairs(both):
        near |= {both[left].pixels} if both[right].pixels in known else set()
        near |= {both[right].pixels} if both[left].pixels in known else set()
    return [position for position, look in enumerate(looks) if look.pixels in near]
