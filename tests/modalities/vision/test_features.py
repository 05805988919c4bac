"""Images to pixels, pixels to cached features of the frozen stages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modalities.vision.config import ImageTransform
from modalities.vision.duplicates import look_at
from modalities.vision.features import Features
from modalities.vision.model import VisionBase, load_base
from modalities.vision.pixels import augmented, mirrored, normalised, to_pixels
from tests.modalities.vision import towers
from tests.modalities.vision.conftest import Pulled
from tests.modalities.vision.pictures import drawn

TRANSFORM = ImageTransform(size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
PICTURES = [drawn("red", 0), drawn("blue", 1), drawn("red", 0), drawn("green", 2)]
DIGESTS = [look_at(image).pixels for image in PICTURES]


def test_values_are_normalised() -> None:
    found = to_pixels(Image.new("RGB", (64, 48), (255, 0, 51)), TRANSFORM)
    assert found.shape == (3, 32, 32) and found.dtype == torch.float32
    torch.testing.assert_close(found[:, 5, 5], torch.tensor([2.0, -2.0, -1.2]))


def test_a_crop_keeps_the_middle_and_squash_keeps_all() -> None:
    image = Image.new("RGB", (128, 32), "black")
    image.paste("white", (48, 0, 80, 32))
    crop = to_pixels(image, TRANSFORM)
    squash = to_pixels(image, TRANSFORM.model_copy(update={"fit": "squash"}))
    assert crop.min() > 1.9 and squash.min() < -1.9 and abs(float((squash > 0).float().mean()) - 0.25) < 0.02
    image = Image.new("RGB", (64, 64), "black")
    image.paste("white", (16, 16, 48, 48))
    assert to_pixels(image, TRANSFORM.model_copy(update={"keep": 0.5})).min() > 1


def test_a_strip_is_no_bomb() -> None:
    assert to_pixels(Image.new("RGB", (1, 1_000_000)), TRANSFORM).shape == (3, 32, 32)


def test_augmentation_depends_on_its_seed_alone() -> None:
    image = PICTURES[0]
    torch.manual_seed(1)
    one = augmented(image, TRANSFORM, 7)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(augmented(image, TRANSFORM, 7), one) and not torch.equal(augmented(image, TRANSFORM, 8), one)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "nothing else is drawn differently for it"
    whole = [augmented(image.resize((32, 32)), TRANSFORM, seed, area=(1.0, 1.0)) for seed in range(12)]
    plain = normalised(image.resize((32, 32)), TRANSFORM)
    kinds = {(torch.equal(each, plain), torch.equal(each, mirrored(plain))) for each in whole}
    assert {(True, False), (False, True)} <= kinds
    assert not torch.equal(mirrored(plain), plain) and torch.equal(mirrored(mirrored(plain)), plain)


@pytest.fixture
def base(pulled: Pulled, tmp_path: Path) -> Iterator[VisionBase]:
    folder = towers.timm_folder(tmp_path / "m", "test_efficientnet")
    yield load_base(pulled(images=(folder, "vision", "hf_vision")))


def features(base: VisionBase, stop: int, opened: list[int], **options: Any) -> Features:
    def open_image(position: int) -> Image.Image:
        opened.append(position)
        return PICTURES[position]

    return Features(base, DIGESTS, open_image, TRANSFORM, stop, **options)


def test_each_distinct_image_goes_through_once_and_comes_back_as_it_was(base: VisionBase) -> None:
    opened: list[int] = []
    source = features(base, 3, opened, mirror=True)
    assert source.cached and sorted(opened) == [0, 0, 1, 1, 3, 3]
    with torch.inference_mode():
        pixels = torch.stack([to_pixels(image, TRANSFORM) for image in PICTURES])
        expected = base.tower.run_stages(pixels, 0, 3)
        turned = base.tower.run_stages(mirrored(pixels), 0, 3)
    found = source.read([3, 0, 1, 2])
    torch.testing.assert_close(found, expected[[3, 0, 1, 2]], rtol=1e-4, atol=1e-5)
    assert torch.equal(found[1], found[3])
    both = source.read([0, 0], [False, True])
    torch.testing.assert_close(both, torch.stack([expected[0], turned[0]]), rtol=1e-4, atol=1e-5)
    source.close()
    again = features(base, 3, opened, mirror=True)
    assert len(opened) == 6 and torch.equal(again.read([0, 0], [False, True]), both)
    again.close()


def test_what_was_cached_serves_no_other_transform_or_boundary(base: VisionBase) -> None:
    opened: list[int] = []
    features(base, 3, opened).close()
    features(base, 2, opened).close()
    assert len(opened) == 6
    Features(base, DIGESTS, lambda n: PICTURES[n], TRANSFORM.at(48), 3).close()


def test_without_room_it_is_computed_at_each_use(base: VisionBase) -> None:
    opened: list[int] = []
    kept = features(base, 3, [])
    loose = features(base, 3, opened, cache=False)
    assert not loose.cached and not opened
    torch.testing.assert_close(loose.read([1, 3]), kept.read([1, 3]), rtol=1e-4, atol=1e-5)
    assert opened == [1, 3]
    kept.close()


def test_no_stage_gives_pixels_and_all_stages_the_features(base: VisionBase) -> None:
    source = features(base, 0, [])
    assert np.array_equal(source.read([1])[0].numpy(), to_pixels(PICTURES[1], TRANSFORM).numpy())
    whole = features(base, len(base.tower.stages), [])
    assert whole.shape == (base.tower.width,)
    whole.close()
