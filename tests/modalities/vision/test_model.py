"""Bases of every format: loaded whole, cut into stages that together are the model itself."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from torch import nn

from moatelier.errors import IntegrityError, InvalidRequest, ModelUnavailable, NotFound
from modalities import catalogue
from modalities.vision.model import embed_images, embed_texts, load_base
from modalities.vision.towers import cut
from tests import sentences
from tests.modalities.vision import towers
from tests.modalities.vision.conftest import Pulled


def in_two(tower: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """The features by way of every boundary between two stages."""
    count = len(tower.stages)
    with torch.inference_mode():
        return [tower.run_stages(tower.run_stages(x, 0, at), at) for at in range(count + 1)]


def same(found: list[torch.Tensor], expected: torch.Tensor) -> None:
    for features in found:
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "stages", "fixed"),
    [
        ("tf_efficientnet_lite0", 7, None),
        ("test_efficientnet", 5, None),
        ("test_vit", 6, 160),
        ("test_resnet", 1, None),
        ("test_convnext", 1, None),
    ],
)
def test_timm_models_are_their_stages(architecture: str, stages: int, fixed: int | None) -> None:
    model = towers.seeded(lambda: timm.create_model(architecture, pretrained=False, num_classes=0))
    tower = cut(model)
    x = towers.images(2, fixed or 64)
    assert len(tower.stages) == stages and tower.width == model.num_features
    assert stages == 1 or tower.fixed_size == fixed
    with torch.inference_mode():
        same(in_two(tower, x), model(x))


@pytest.mark.parametrize(
    ("config", "stages"),
    [
        (towers.VIT, 3),
        (towers.VIT | {"vision_cfg": towers.VIT["vision_cfg"] | {"pool_type": "avg", "final_ln_after_pool": True}}, 3),
        (towers.VIT | {"vision_cfg": towers.VIT["vision_cfg"] | {"attentional_pool": True, "attn_pooler_heads": 4}}, 1),
        (towers.RESNET, 4),
        (towers.VIT | {"vision_cfg": {"timm_model_name": "test_efficientnet", "image_size": 32}}, 5),
    ],
    ids=["vit", "vit-avg", "coca", "resnet", "timm"],
)
def test_open_clip_towers_are_their_stages_and_projection(config: dict[str, Any], stages: int) -> None:
    visual = towers.seeded(lambda: open_clip.CLIP(**config)).visual
    x = towers.images()
    with torch.inference_mode():
        expected = visual(x)
        tower = cut(visual)
        assert len(tower.stages) == stages
        found = in_two(tower, x)
        same([tower.project(features) for features in found], expected)
        assert {features.shape for features in found} == {(2, tower.width)}


def test_attention_becomes_linear_layers_that_can_be_adapted() -> None:
    tower = cut(towers.seeded(lambda: open_clip.CLIP(**towers.VIT)).visual)
    assert not [module for module in tower.modules() if isinstance(module, nn.MultiheadAttention)]
    names = [name for name, module in tower.named_modules() if isinstance(module, nn.Linear)]
    assert [name.rsplit(".", 2)[-2:] for name in names[:4]] == [
        ["attn", "qkv"],
        ["attn", "out_proj"],
        ["mlp", "c_fc"],
        ["mlp", "c_proj"],
    ]


def test_a_base_of_timm_has_an_image_tower_alone(pulled: Pulled, tmp_path: Path) -> None:
    base = load_base(pulled(images=(towers.timm_folder(tmp_path / "m"), "vision", "hf_vision")))
    assert base.digest == catalogue.base_digest("images") and base.text_digest is None
    assert (base.precision, base.first_stage_default, base.device.type) == ("fp32", 4, "cpu")
    assert not any(weight.requires_grad for weight in base.tower.parameters()) and not base.tower.training
    assert base.transform_at(48).size == 48
    with torch.inference_mode():
        assert base.tower(towers.images(3, 48)).shape == (3, 1280)
    with pytest.raises(InvalidRequest, match="never met"):
        embed_images(base, towers.images())


def test_in_bfloat16_the_batch_norms_stay_whole(pulled: Pulled, tmp_path: Path) -> None:
    name = pulled(images=(towers.timm_folder(tmp_path / "m"), "vision", "hf_vision"))
    low, full = load_base(name, "bf16"), load_base(name, "fp32")
    x = towers.images()
    with torch.inference_mode():
        found = low.tower(x.bfloat16())
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), full.tower(x), rtol=0.1, atol=0.05)


def test_words_from_another_pack_are_refused_until_the_towers_have_met(pulled: Pulled, tmp_path: Path) -> None:
    words = sentences.tiny_embedding(tmp_path, "a photo of a cat and a dog")
    name = pulled(
        images=(towers.timm_folder(tmp_path / "m"), "vision", "hf_vision"),
        words=(words, "embedding", "hf_embedding"),
    )
    base, again = (load_base(name, text="words") for _ in range(2))
    assert base.text_digest == catalogue.base_digest("words")
    x = towers.images()
    with pytest.raises(InvalidRequest, match="trained apart and never met") as caught:
        embed_images(base, x)
    assert "captions" in caught.value.remedy
    with pytest.raises(InvalidRequest, match="never met"):
        embed_texts(base, ["a cat"])
    with torch.inference_mode():
        vectors = embed_images(base, x, tuned=True)
        texts = embed_texts(base, ["a cat", "a photo of a dog"], tuned=True)
        assert vectors.shape == texts.shape == (2, 16)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
        assert torch.equal(vectors, embed_images(again, x, tuned=True)), "the projection is always the same"
        alone = load_base(name)
        assert torch.equal(base.tower(x), alone.tower(x)), "the image tower is the pack's"


def test_a_base_of_open_clip_compares_images_with_words_at_once(pulled: Pulled, tmp_path: Path) -> None:
    base = load_base(pulled(clip=(towers.open_clip_folder(tmp_path / "m"), "vision", "hf_vision")))
    original = towers.seeded(lambda: open_clip.CLIP(**towers.VIT))
    x, words = towers.images(), ["a cat", "a dog"]
    with torch.inference_mode():
        torch.testing.assert_close(embed_images(base, x), original.encode_image(x, normalize=True), atol=1e-5, rtol=0)
        tokens = open_clip.SimpleTokenizer(context_length=16)(words)
        torch.testing.assert_close(embed_texts(base, words), original.encode_text(tokens, normalize=True))
    assert base.transform_at(32).size == 32
    with pytest.raises(InvalidRequest, match="takes images of 32 pixels only, not 48"):
        base.transform_at(48)


def test_what_does_not_load_is_told(pulled: Pulled, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("other", "wrong", "broken")}
    towers.open_clip_folder(folders["other"])
    config = folders["other"] / "open_clip_config.json"
    config.write_text(config.read_text().replace('"context_length": 16', '"hf_model_name": "roberta-base"'))
    towers.timm_folder(folders["wrong"])
    text = (folders["wrong"] / "config.json").read_text().replace("tf_efficientnet_lite0", "no_such_model")
    (folders["wrong"] / "config.json").write_text(text)
    towers.timm_folder(folders["broken"])
    (folders["broken"] / "model.safetensors").write_bytes(b"no tensors")
    pulled(**{name: (folder, "vision", "hf_vision") for name, folder in folders.items()})
    with pytest.raises(ModelUnavailable, match="'roberta-base' of the Hub"):
        load_base("other")
    for name in ("wrong", "broken"):
        with pytest.raises(ModelUnavailable, match="do not load"):
            load_base(name)
    with pytest.raises(ModelUnavailable, match="for text, not for vision"):
        load_base("smollm2-135m-instruct")
    with pytest.raises(ModelUnavailable, match="for vision, not for embedding"):
        load_base("broken", text="wrong")
    with pytest.raises(NotFound):
        load_base("nothing")
    (catalogue.folder("broken") / "model.safetensors").write_bytes(b"other bytes")
    with pytest.raises(IntegrityError, match="not what was pulled"):
        load_base("broken")
