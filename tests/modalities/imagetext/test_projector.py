"""What is seen at a few places of a picture becomes states as large as those it will stand among."""

from typing import Any

import open_clip
import pytest
import timm
import torch

from moatelier.errors import IntegrityError, InvalidRequest
from modalities.imagetext.config import SIGHT, read_sight
from modalities.imagetext.projector import Projector, look
from modalities.imagetext.prompt import spread
from modalities.vision.towers import cut
from tests.modalities.vision import towers


class Base:
    """A base's tower and no more."""

    def __init__(self, tower: Any) -> None:
        self.tower = tower


@pytest.mark.parametrize(
    ("make", "vectors"),
    [
        (lambda: timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0), 4),
        (lambda: open_clip.CLIP(**towers.VIT).visual, 4),
        (lambda: open_clip.CLIP(**towers.RESNET).visual, 1),
        (lambda: timm.create_model("test_convnext", pretrained=False, num_classes=0), 1),
    ],
    ids=["efficientnet", "vit", "resnet", "whole"],
)
def test_places_are_the_tower_without_its_pooling(make: Any, vectors: int) -> None:
    tower, x = cut(towers.seeded(make)), towers.images(2, 64 if vectors == 4 else 32)
    if tower.fixed_size:
        x = towers.images(2, tower.fixed_size)
    with torch.inference_mode():
        states = tower.run_stages(x, 0, tower.before_places)
        seen = look(Base(tower), states)  # type: ignore[arg-type]
        assert seen.shape[:2] == (2, vectors)
        if tower.pools and seen.shape[2] == tower.width and tower.fixed_size is None:
            torch.testing.assert_close(seen.mean(dim=1), tower(x), rtol=1e-3, atol=1e-4)
        if not tower.pools:
            assert torch.equal(seen[:, 0], tower(x))


def test_the_projector_starts_as_large_as_asked_and_blind_is_the_mean_picture() -> None:
    torch.manual_seed(0)
    seen = torch.randn(32, 4, 10) * 3 + 5
    seen[:, :, 0] = 7.0  # never moves
    projector = Projector(4, 10, 16, 8)
    projector.start(seen, 9.0)
    states = projector(seen)
    assert states.shape == (32, 4, 8) and bool(states.isfinite().all())
    assert float(states.pow(2).mean().sqrt().detach()) == pytest.approx(9.0, rel=0.01)
    torch.testing.assert_close(projector.blind(), projector(seen.mean(dim=0, keepdim=True))[0])
    assert not torch.allclose(projector.blind(), states[0])


def test_the_projector_starts_near_the_words_that_name_each_picture() -> None:
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    seen = torch.randn(60, 4, 10) * 0.3 + torch.randn(3, 1, 10)[labels] * 2
    words = torch.randn(3, 8) * 9
    projector = Projector(4, 10, 32, 8)
    projector.start(seen, 9.0, words[labels])
    states = projector(seen).detach()
    nearest = torch.cdist(states.flatten(0, 1), words).argmin(dim=1)
    assert float((nearest == labels.repeat_interleave(4)).float().mean()) > 0.95
    torch.testing.assert_close(states.mean(dim=(0, 1)), words.mean(dim=0), rtol=1e-3, atol=1e-3)


def test_a_picture_makes_room_for_its_vectors() -> None:
    assert spread([5, -1, 6], 3, 0) == ([5, 0, 0, 0, 6], 1)
    for ids in ([5, 6], [-1, -1]):
        with pytest.raises(InvalidRequest, match="pictures, where one"):
            spread(ids, 3, 0)


@pytest.mark.parametrize("text", [None, "{", '{"base": "eyes"}'])
def test_a_bundle_that_does_not_say_how_pictures_come_in_is_refused(tmp_path: Any, text: str | None) -> None:
    if text is not None:
        (tmp_path / SIGHT).write_text(text)
    with pytest.raises(IntegrityError, match="how pictures come in"):
        read_sight(tmp_path)
