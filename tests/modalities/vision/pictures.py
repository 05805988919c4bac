"""Pictures that Pillow draws: shapes that differ by seed, in any format and mode."""

import io
import random
from typing import Any

from PIL import Image, ImageDraw, ImageFilter

COLOURS = {"red": (210, 40, 40), "green": (40, 160, 60), "blue": (40, 70, 200)}


def drawn(label: str, seed: int, size: int = 64) -> Image.Image:
    """A scene with shapes of the label's colour; every seed gives another one."""
    chance = random.Random(f"{label}{seed}")
    image = Image.new("RGB", (size, size), tuple(chance.randrange(256) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = chance.randrange(size), chance.randrange(size)
        box = (x, y, x + chance.randrange(8, size // 2), y + chance.randrange(8, size // 2))
        grey = chance.randrange(256)
        draw.ellipse(box, fill=COLOURS[label] if chance.random() < 0.5 else (grey, grey, grey))
    return image.filter(ImageFilter.GaussianBlur(1))


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()
