"""Pictures of one shape each, with its name as the label and a caption: drawn by seed, in many ways.

Shape, colours, size, turn, place and ground vary; there is clutter, something may cover a part, and there is noise: a
probe on frozen features is right on most of them and not on all.
"""

import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from examples.dice import Dice
from examples.making.shapes import NAMES, SHAPES, Outline, place

SIDE = 128
"""Pixels."""
_FINE = 2
"""It is drawn so many times larger, for smooth edges."""
_CANVAS = SIDE * _FINE
_FAR = 150.0
"""Least distance of two colours in RGB."""

Colour = tuple[int, int, int]
COLOURS: dict[str, Colour] = {
    "red": (205, 45, 45),
    "orange": (235, 140, 40),
    "yellow": (240, 215, 70),
    "green": (60, 150, 75),
    "blue": (50, 95, 200),
    "purple": (130, 65, 165),
    "pink": (240, 150, 185),
    "brown": (120, 80, 50),
    "black": (35, 35, 40),
    "white": (240, 240, 235),
    "grey": (135, 138, 140),
}


class Picture(NamedTuple):
    """What is shown and how it is told."""

    image: Image.Image
    label: str
    caption: str

    def jpeg(self) -> bytes:
        """The picture as a file."""
        file = io.BytesIO()
        self.image.save(file, "JPEG", quality=92)
        return file.getvalue()


def draw(label: str, dice: Dice) -> Picture:
    """A picture of a shape.

    Args:
        label: Which one, of `NAMES`.
        dice: All chance comes from it.
    """
    shape = dice.pick(list(COLOURS))
    ground = dice.pick([name for name in COLOURS if math.dist(COLOURS[name], COLOURS[shape]) > _FAR])
    colour = _vary(COLOURS[shape], dice)
    image, where = _ground(ground, colour, dice)
    pen = ImageDraw.Draw(image)
    _clutter(pen, colour, dice.below(9), dice)
    radius = dice.between(0.2, 0.42) * _CANVAS
    centre = (dice.between(radius, _CANVAS - radius), dice.between(radius, _CANVAS - radius))
    _fill(image, place(SHAPES[label](dice), dice, centre, radius), colour, dice)
    if dice.chance(0.25):
        _cover(pen, centre, radius, dice)
    _clutter(pen, colour, dice.below(5), dice)
    size = "small " if radius < 0.26 * _CANVAS else "big " if radius > 0.36 * _CANVAS else ""
    return Picture(_photograph(image, dice), label, f"{_article(size + shape)} {size}{shape} {label} {where}")


def label_of(number: int) -> str:
    """The shape of the picture, or the word of the recording, of a number: all come equally often."""
    return NAMES[number % len(NAMES)]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _vary(colour: Colour, dice: Dice, most: float = 22) -> Colour:
    red, green, blue = (round(min(255, max(0, value + dice.between(-most, most)))) for value in colour)
    return red, green, blue


# ---------------------------------------------------------------- grounds


def _ground(name: str, other: Colour, dice: Dice) -> tuple[Image.Image, str]:
    """What lies behind, and how a caption calls it; never in a colour near to `other`."""
    colour = _vary(COLOURS[name], dice)
    second = _vary(colour, dice, 45)
    if math.dist(second, other) < _FAR * 0.6:
        second = colour
    image = Image.new("RGB", (_CANVAS, _CANVAS), colour)
    pen = ImageDraw.Draw(image)
    kind = dice.pick(("plain", "striped", "checked", "spotted", "cloudy", "hills"))
    if kind == "striped":
        _stripes(pen, second, dice)
    elif kind == "checked":
        side = round(dice.between(0.07, 0.2) * _CANVAS)
        for x in range(0, _CANVAS, side):
            for y in range((x // side % 2) * side, _CANVAS, 2 * side):
                pen.rectangle((x, y, x + side - 1, y + side - 1), fill=second)
    elif kind == "spotted":
        for _ in range(40):
            x, y, r = dice.below(_CANVAS), dice.below(_CANVAS), dice.between(0.01, 0.045) * _CANVAS
            pen.ellipse((x - r, y - r, x + r, y + r), fill=second)
    elif kind == "cloudy":
        image = Image.blend(image, _clouds(second, dice), 0.5)
    elif kind == "hills":
        _hills(pen, second, dice)
        return image, f"above {name} hills"
    return (
        image,
        f"on {_article(name if kind == 'plain' else kind)} {'' if kind == 'plain' else kind + ' '}{name} ground",
    )


def _stripes(pen: ImageDraw.ImageDraw, colour: Colour, dice: Dice) -> None:
    step, width, lean = dice.between(14, 44), round(dice.between(4, 14)), dice.between(-1, 1) * _CANVAS
    for number in range(-round(_CANVAS / step), round(2 * _CANVAS / step)):
        pen.line((number * step, 0, number * step + lean, _CANVAS), fill=colour, width=width)


def _clouds(colour: Colour, dice: Dice) -> Image.Image:
    small = Image.new("RGB", (6, 6))
    small.putdata([_vary(colour, dice, 60) for _ in range(36)])
    return small.resize((_CANVAS, _CANVAS), Image.Resampling.BICUBIC)


def _hills(pen: ImageDraw.ImageDraw, colour: Colour, dice: Dice) -> None:
    for level in (0.62, 0.76):
        height, length, shift = dice.between(0.03, 0.1), dice.between(0.15, 0.4), dice.between(0, 6)
        line = [(x, (level + height * math.sin(x / (length * _CANVAS) + shift)) * _CANVAS) for x in range(_CANVAS)]
        pen.polygon([(0, _CANVAS), *line, (_CANVAS, _CANVAS)], fill=_vary(colour, dice, 12))


# ---------------------------------------------------------------- what is drawn on it


def _fill(image: Image.Image, outline: Outline, colour: Colour, dice: Dice) -> None:
    """Paint an outline: in one colour, from one shade to another, or striped."""
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    paint = Image.new("RGB", image.size, colour)
    way = dice.below(3)
    if way == 1:
        shade = Image.linear_gradient("L").resize(image.size).rotate(90 * dice.below(4))
        paint = Image.composite(Image.new("RGB", image.size, _vary(colour, dice, 50)), paint, shade)
    elif way == 2:
        _stripes(ImageDraw.Draw(paint), _vary(colour, dice, 50), dice)
    image.paste(paint, mask=mask)


def _clutter(pen: ImageDraw.ImageDraw, colour: Colour, count: int, dice: Dice) -> None:
    """Strokes and splinters, each smaller than any shape, some in the shape's own colour."""
    for _ in range(count):
        paint = _vary(colour if dice.chance(0.3) else dice.pick(list(COLOURS.values())), dice)
        x, y, size = dice.below(_CANVAS), dice.below(_CANVAS), dice.between(0.03, 0.11) * _CANVAS
        corners = [(x + dice.between(-size, size), y + dice.between(-size, size)) for _ in range(3 + dice.below(2))]
        if dice.chance(0.5):
            pen.line(corners[:2], fill=paint, width=2 + dice.below(5))
        else:
            pen.polygon(corners, fill=paint)


def _cover(pen: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, dice: Dice) -> None:
    """A bar over a part of the shape, never over its middle."""
    angle, width = dice.between(0, 2 * math.pi), radius * dice.between(0.2, 0.45)
    away = radius * dice.between(0.35, 0.8)
    x, y = centre[0] + away * math.cos(angle), centre[1] + away * math.sin(angle)
    dx, dy = -math.sin(angle) * 1.3 * radius, math.cos(angle) * 1.3 * radius
    paint = _vary(dice.pick(list(COLOURS.values())), dice)
    pen.line((x - dx, y - dy, x + dx, y + dy), fill=paint, width=round(width))


def _photograph(image: Image.Image, dice: Dice) -> Image.Image:
    """As a camera would give it: smaller, a little blurred, brighter or darker, with noise."""
    small = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    small = small.filter(ImageFilter.GaussianBlur(dice.between(0, 1.1)))
    noise = np.random.default_rng(dice.below(2**32)).normal(0, dice.between(2, 12), (SIDE, SIDE, 3))
    values = np.asarray(small, dtype=np.float64) * dice.between(0.7, 1.15) + noise
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
