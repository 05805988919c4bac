"""Bytes to an image, safely: sizes are bounded before a pixel is decoded, and every odd kind becomes plain RGB.

Rotation by EXIF is carried out, 16 bits become 8, transparency lies on white, and an animation is its first frame.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from moatelier.errors import DataError
from modalities.media import Media, read_bounded, too_many_bytes, uri_bytes

MAX_BYTES = 32 * 2**20
"""Of an encoded image."""
MAX_PIXELS = 50_000_000
"""Of a decoded one: 150 MB as RGB."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is decoded at all. Pillow knows more, some by starting other programs."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")

_REMEDY = "Save it again as JPEG or PNG."


def media() -> Media:
    """What is read as an image."""
    return Media("image", "image/png", SUFFIXES, MAX_BYTES, "Scale the image down.")


def decode_image(source: bytes | Path, name: str = "image") -> Image.Image:
    """Decode an image to RGB, upright.

    Args:
        source: The encoded image, or the file with it.
        name: What its owner calls it, for messages.

    Raises:
        DataError: It is empty, too large, of no known format, truncated or damaged; `where` is the name.
    """
    data = source if isinstance(source, bytes) else read_bounded(source, name, media())
    if not data:
        raise DataError("The image file is empty.", where=name, remedy="Upload it again.")
    if len(data) > MAX_BYTES:
        raise too_many_bytes(name, media())
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _require_size(image, name)
            image.load()
            return _plain(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(name) from error
    except UnidentifiedImageError as error:
        raise DataError(
            "The file is no image of a known format.", where=name, remedy=f"Known are {', '.join(FORMATS)}."
        ) from error
    except Exception as error:  # Pillow's decoders raise many kinds
        raise DataError(f"The image is damaged: {error}.", where=name, remedy=_REMEDY) from error


def decode_uri(uri: str, name: str = "image_url") -> Image.Image:
    """Decode an image in a data URI, as requests and tables bring it. Nothing is ever fetched.

    Raises:
        InvalidRequest: It is no data URI of an image in base64.
        DataError: See `decode_image`.
    """
    return decode_image(uri_bytes(uri, name, media()), name)


def _require_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_many_pixels(name)


def _too_many_pixels(name: str) -> DataError:
    return DataError(
        f"The image has more than {MAX_PIXELS // 1_000_000} million pixels.", where=name, remedy="Scale it down."
    )


def _plain(image: Any) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _from_deep(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        whole = image.convert("RGBA")
        paper = Image.new("RGBA", whole.size, "white")
        return Image.alpha_composite(paper, whole).convert("RGB")
    plain: Image.Image = image.convert("RGB")
    return plain


def _from_deep(image: Image.Image) -> Image.Image:
    """Sixteen bits, which Pillow would cut at 255; floats from 0 to 1, or to 255 or 65,535 where they go higher."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
    top = float(values.max(initial=0))
    whole = 1.0 if image.mode == "F" and top <= 1 else 255.0 if top <= 255 and image.mode == "F" else 65_535.0
    grey = np.clip(values * (255 / whole), 0, 255).round().astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
