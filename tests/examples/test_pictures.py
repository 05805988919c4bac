import csv
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from examples.dice import Dice
from examples.making import sets
from examples.making.pictures import COLOURS, SIDE, draw
from examples.making.shapes import NAMES, SHAPES, place
from moatelier.errors import InvalidRequest
from modalities.vision.duplicates import look_at, near_clusters
from modalities.vision.images import decode_image


def made(count: int, seed: int = 0) -> tuple[dict[str, bytes], list[dict[str, str]]]:
    files = dict(sets.pictures(count, seed))
    return files, list(csv.DictReader(files.pop("index.csv").decode().splitlines()))


def test_the_same_seed_draws_the_same_bytes() -> None:
    files, rows = made(30)
    again, _ = made(30)
    more, _ = made(40)
    other, _ = made(30, seed=1)
    assert files == again and files.items() <= more.items() and not set(files.values()) & set(other.values())
    assert sorted(files) == sorted(row["image"] for row in rows)


def test_every_shape_comes_equally_often_in_a_folder_of_its_name() -> None:
    _, rows = made(30)
    assert Counter(row["label"] for row in rows) == dict.fromkeys(NAMES, 3)
    assert all(row["image"].split("/")[0] == row["label"] and row["licence"] == "CC0-1.0" for row in rows)


def test_a_caption_says_what_is_shown() -> None:
    _, rows = made(60)
    for row in rows:
        words = row["caption"].split()
        assert row["label"] in words and len(set(words) & set(COLOURS)) == 2 and words[0] in ("a", "an")
        assert words[0] == ("an" if words[1][0] in "aeiou" else "a")
    assert len({row["caption"] for row in rows}) > 50


def test_pictures_are_sound_and_none_repeats_another() -> None:
    images = [decode_image(data, path) for path, data in made(80)[0].items()]
    assert {image.size for image in images} == {(SIDE, SIDE)}
    looks = [look_at(image) for image in images]
    assert not near_clusters(looks) and not any(look.blank for look in looks)


def test_a_file_is_a_jpeg_of_the_picture() -> None:
    picture = draw("star", Dice("one"))
    file = Image.open(io.BytesIO(picture.jpeg()))
    assert file.format == "JPEG"
    assert np.abs(np.asarray(file, float) - np.asarray(picture.image, float)).mean() < 10


@pytest.mark.parametrize("name", NAMES)
def test_a_shape_stays_within_its_place(name: str) -> None:
    for seed in range(20):
        dice = Dice(seed)
        points = np.array(place(SHAPES[name](dice), dice, (50.0, 60.0), 20.0))
        away = np.linalg.norm(points - [50, 60], axis=1)
        assert 15 < away.max() < 30


def test_no_pictures_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="0 cannot be made"):
        list(sets.pictures(0, 0))
