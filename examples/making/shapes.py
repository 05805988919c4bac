"""The shapes that are drawn and said: outlines in the square from -1 to 1, y downwards."""

import math
from collections.abc import Callable

from examples.dice import Dice

Point = tuple[float, float]
Outline = list[Point]


def _arc(start: float, stop: float, radius: float = 1.0, centre: float = 0.0) -> Outline:
    """Points of an arc around (centre, 0); angles in turns."""
    angles = [2 * math.pi * (start + (stop - start) * step / 48) for step in range(49)]
    return [(centre + radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _corners(count: int, inner: float | None = None) -> Outline:
    """A regular polygon; with `inner` a star whose other corners lie at that radius."""
    steps = count if inner is None else 2 * count
    radii = [1.0 if inner is None or step % 2 == 0 else inner for step in range(steps)]
    return [
        (radius * math.sin(2 * math.pi * step / steps), -radius * math.cos(2 * math.pi * step / steps))
        for step, radius in enumerate(radii)
    ]


def _arrow(dice: Dice) -> Outline:
    shaft, neck = dice.between(0.16, 0.28), dice.between(-0.1, 0.15)
    half = [(-1.0, shaft), (neck, shaft), (neck, dice.between(0.55, 0.75)), (1.0, 0.0)]
    return [*half, *((x, -y) for x, y in reversed(half[:-1]))]


def _cross(dice: Dice) -> Outline:
    w = dice.between(0.22, 0.36)
    return [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w)]


def _diamond(dice: Dice) -> Outline:
    narrow = dice.between(0.5, 0.65)
    return [(0.0, -1.0), (narrow, 0.0), (0.0, 1.0), (-narrow, 0.0)]


def _heart(_: Dice) -> Outline:
    turns = [2 * math.pi * step / 60 for step in range(60)]
    return [
        (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
        for t in turns
    ]


def _moon(dice: Dice) -> Outline:
    """A disc without the part that another one covers, which is as large and stands beside it."""
    away = dice.between(0.5, 0.8)
    meet = math.acos(away / 2) / (2 * math.pi)
    return [*_arc(meet, 1 - meet), *_arc(0.5 + meet, 0.5 - meet, centre=away)]


def _ring(dice: Dice) -> Outline:
    """Out along the rim, back along the hole: one closed line."""
    return [*_arc(0, 1), *_arc(1, 0, dice.between(0.5, 0.68))]


def _square(_: Dice) -> Outline:
    return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]


SHAPES: dict[str, Callable[[Dice], Outline]] = {
    "arrow": _arrow,
    "circle": lambda _: _arc(0, 1),
    "cross": _cross,
    "diamond": _diamond,
    "heart": _heart,
    "moon": _moon,
    "ring": _ring,
    "square": _square,
    "star": lambda dice: _corners(5, dice.between(0.38, 0.5)),
    "triangle": lambda _: _corners(3),
}
"""Name -> its outline, which varies a little. Each name is one word that a voice can say."""
NAMES = tuple(SHAPES)


def place(outline: Outline, dice: Dice, centre: Point, radius: float) -> Outline:
    """An outline turned, leant and stretched a little by chance, of a radius in pixels around a centre."""
    angle, lean, stretch = dice.between(0, 2 * math.pi), dice.between(-0.15, 0.15), dice.between(0.88, 1.14)
    cos, sin = math.cos(angle), math.sin(angle)
    placed = []
    for x, y in outline:
        x, y = (x + lean * y) * stretch, y / stretch
        placed.append((centre[0] + radius * (cos * x - sin * y), centre[1] + radius * (sin * x + cos * y)))
    return placed
