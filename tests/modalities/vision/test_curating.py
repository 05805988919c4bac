"""Images in curation: what the plan's files give, and the size that is worth computing at."""

from pathlib import Path

import pytest

from modalities.curating import Material
from modalities.vision import curating
from modalities.vision.config import ImageTransform, VisionConfig
from modalities.vision.curating import fit_size, read
from tests.agents.media_scenes import TOLD, planned
from tests.modalities.vision.test_data import classes

CONFIG = VisionConfig(
    format="timm",
    architecture="tf_efficientnet_lite0",
    transform=ImageTransform(size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
)


@pytest.mark.parametrize(
    ("side", "size"), [(32, 128), (20, 128), (40, 160), (48, 192), (50, None), (64, None), (1024, None)]
)
def test_small_images_are_seen_at_fewer_pixels_and_none_at_more_than_the_bases_own(side: float, size: int) -> None:
    assert fit_size({"p95": side}, CONFIG) == size


def test_a_base_of_one_size_keeps_it() -> None:
    vit = CONFIG.model_copy(update={"architecture": "vit_base_patch16"})
    assert fit_size({"p95": 32}, vit) is None and fit_size({}, CONFIG) is None
    small = CONFIG.model_copy(update={"transform": CONFIG.transform.at(96)})
    assert fit_size({"p95": 32}, small) is None


def test_halves_of_divided_files_have_their_own_rows(home: Path, tmp_path: Path) -> None:
    for part, count, first in (("train", 3, 0), ("val", 1, 20), ("test", 2, 50)):
        classes(tmp_path / "pets" / part, count, first=first)
    plan, told = planned("90 % right"), []
    learn, test, whole = (
        read(tmp_path / "pets", "pets", plan, half, lambda done, of: told.append((done, of)))  # type: ignore[arg-type]
        for half in ("learn", "test", "all")
    )
    assert (len(learn), len(test), len(whole)) == (12, 6, 18)
    assert [row.number for row in learn] == list(range(1, 13)) and told[-1] == (18, 18)
    assert not {row.pixels for row in learn} & {row.pixels for row in test}


def test_words_are_needed_where_pictures_are_found_by_them_and_the_base_has_none(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"timm": CONFIG, "open_clip": CONFIG.model_copy(update={"format": "open_clip"})}
    for words, timm, clip in (("find pictures by caption, 60 %", ("all-minilm-l6-v2",), ()), ("90 % right", (), ())):
        data = TOLD if "caption" in words else None
        plan = planned(words, data=data) if data else planned(words)
        for name, needed in (("timm", timm), ("open_clip", clip)):
            monkeypatch.setattr(curating, "_config", lambda _, name=name: found[name])
            material = Material(plan, [], None)
            assert curating.needs(material) == needed
            assert curating.probing(material) == ({"kind": "retrieval"} if data else {})
