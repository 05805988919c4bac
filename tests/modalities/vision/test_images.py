"""Every odd kind of image becomes plain RGB or a refusal that says which file, what and what to do."""

import base64
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moatelier.errors import DataError, InvalidRequest, MoatelierError
from modalities.vision import images
from modalities.vision.images import decode_image, decode_uri
from tests.modalities.vision.pictures import drawn, encoded

PICTURE = drawn("red", 1)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_known_formats_become_rgb(format: str, tmp_path: Path) -> None:
    data = encoded(PICTURE, format)
    found = decode_image(data)
    assert (found.mode, found.size) == ("RGB", (64, 64))
    assert abs(np.asarray(found, float) - np.asarray(PICTURE, float)).mean() < 12
    (tmp_path / "a").write_bytes(data)
    assert decode_image(tmp_path / "a").tobytes() == found.tobytes()


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "RGBA", "LA"])
def test_modes_become_rgb(mode: str) -> None:
    image = PICTURE.convert(mode)
    format = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    found = decode_image(encoded(image, format))
    reference = PICTURE.convert("L" if mode in ("L", "1", "LA") else "RGB").convert("RGB")
    assert found.mode == "RGB"
    limit = 128 if mode == "1" else 25
    assert abs(np.asarray(found, float) - np.asarray(reference, float)).mean() < limit


def test_sixteen_bits_are_scaled_not_cut() -> None:
    ramp = np.linspace(0, 65_535, 64 * 64).reshape(64, 64).astype(np.uint16)
    found = np.asarray(decode_image(encoded(Image.fromarray(ramp))))[..., 0]
    assert found[0, 0] == 0 and found[-1, -1] == 255 and abs(int(found[32, 0]) - 128) <= 1
    floats = Image.fromarray((ramp / 65_535).astype(np.float32))
    assert np.array_equal(np.asarray(decode_image(encoded(floats, "TIFF")))[..., 0], found)


def test_what_is_transparent_lies_on_white() -> None:
    found = decode_image(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0))))
    assert found.getpixel((3, 3)) == (255, 255, 255)


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    found = decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    red, green, blue = found.getpixel((5, 5))  # type: ignore[misc]
    assert red > 200 > 60 > max(green, blue)


def test_a_rotation_by_exif_is_carried_out() -> None:
    wide = Image.new("RGB", (40, 20), "white")
    wide.paste("red", (0, 0, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    found = decode_image(encoded(wide, "PNG", exif=exif))
    assert found.size == (20, 40) and found.getpixel((10, 3)) == (255, 0, 0)


def test_one_pixel_is_an_image() -> None:
    assert decode_image(encoded(Image.new("RGB", (1, 1), "red"))).size == (1, 1)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than it could ever hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [7_100, 10_000, 40_000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(DataError, match="more than 50 million pixels") as caught:
        decode_image(bomb(side, side), "bomb.png")
    assert caught.value.where == "bomb.png" and "Scale it down" in caught.value.remedy


def test_too_many_bytes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    (tmp_path / "big.png").write_bytes(b"x" * 1001)
    for source in (tmp_path / "big.png", b"x" * 1001):
        with pytest.raises(DataError, match="The image file has more than"):
            decode_image(source, "big.png")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is empty"),
        (b"hello, this is text", "no image of a known format"),
        (encoded(PICTURE, "JPEG")[:700], "is damaged"),
        (encoded(PICTURE, "PNG")[:200], "is damaged"),
        (encoded(PICTURE, "WEBP")[:80], "is damaged|no image"),
        (encoded(PICTURE, "TIFF")[:500], "is damaged|no image"),
        (encoded(PICTURE, "PNG").replace(b"IDAT", b"IDOT"), "is damaged|no image"),
        (encoded(PICTURE.convert("RGB"), "PDF"), "no image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image of a known format"),
    ],
    ids=["empty", "text", "jpeg", "png", "webp", "tiff", "chunk", "pdf", "eps"],
)
def test_broken_files_are_refused(data: bytes, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        decode_image(data, "pets/cat.jpg")
    assert caught.value.where == "pets/cat.jpg" and caught.value.remedy


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        decode_image(tmp_path / "none.png", "none.png")


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_never_raise_anything_else(seed: int) -> None:
    chance = np.random.default_rng(seed)
    format = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")[seed % 6]
    data = bytearray(encoded(PICTURE, format))
    for place in chance.integers(0, len(data), 12):
        data[place] = chance.integers(256)
    try:
        assert decode_image(bytes(data)).mode == "RGB"
    except MoatelierError as error:
        assert isinstance(error, DataError)


def test_data_uris_are_decoded_and_urls_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = base64.b64encode(encoded(PICTURE)).decode()
    assert decode_uri(f"data:image/png;base64,{data}").tobytes() == PICTURE.tobytes()
    assert decode_uri(f"DATA:image/svg+xml;charset=utf-8;base64,{data}").size == (64, 64)
    for uri, told in (
        ("https://example.com/cat.png", "is a URL"),
        ("file:///etc/passwd", "is a URL"),
        ("cat.png", "no data URI"),
        ("data:text/plain;base64,aGk=", "no data URI"),
        ("data:image/png,abc", "no data URI"),
        (f"data:image/png;base64,{data[:-5]}*", "base64 is broken"),
    ):
        with pytest.raises(InvalidRequest, match=told) as caught:
            decode_uri(uri, "messages[0].content[1]")
        assert caught.value.where == "messages[0].content[1]"
    with pytest.raises(DataError, match="is empty"):
        decode_uri("data:image/png;base64,")
    monkeypatch.setattr(images, "MAX_BYTES", 99)
    with pytest.raises(DataError, match="more than"):
        decode_uri(f"data:image/png;base64,{data}")
