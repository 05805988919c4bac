"""The real vision pack with MiniLM as its text tower; skipped where they are not pulled."""

import numpy as np
import pytest
import torch
from torch import nn

from modalities import catalogue
from modalities.embedding import embed
from modalities.vision.model import embed_texts, load_base
from tests.modalities.vision import towers

pytestmark = pytest.mark.slow
IMAGES, WORDS = "efficientnet-lite0", "all-minilm-l6-v2"


@pytest.fixture(autouse=True)
def _pulled() -> None:
    for name in (IMAGES, WORDS):
        if not catalogue.is_pulled(name):
            pytest.skip(f"the pack is not on this machine; run `moatelier models pull {name}`")


def test_the_towers_of_the_pack_are_those_that_were_pulled() -> None:
    base = load_base(IMAGES, text=WORDS)
    assert len(base.tower.stages) == 7 and base.first_stage_default == 4 and base.tower.width == 1280
    texts = ["a ship on the sea", "a frog"]
    with torch.inference_mode():
        assert np.allclose(embed_texts(base, texts, tuned=True).numpy(), embed(texts), atol=1e-5)
        x = towers.images(2, 128)
        whole = base.tower(x)
        torch.testing.assert_close(base.tower.run_stages(base.tower.run_stages(x, 0, 4), 4), whole)
    assert 0.05 < float((whole > 0).float().mean()) < 0.95, "trained features are sparse, not dead"


def test_the_pack_has_the_size_the_catalogue_says() -> None:
    base = load_base(IMAGES)
    classifier = 1280 * 1000 + 1000
    tower = sum(weight.numel() for weight in base.tower.parameters())
    assert tower + classifier == catalogue.get(IMAGES).parameters
    norms = [module for module in base.tower.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 49 and {norm.eps for norm in norms} == {1e-3}
