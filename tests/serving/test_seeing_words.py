"""Images and words in the engine: zero-shot by names, retrieval both ways, and a refusal where they never met."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch.nn.functional import normalize

from moatelier.errors import IntegrityError, InvalidRequest, NotFound
from moatelier.settings import settings
from modalities.bundle import WEIGHTS
from modalities.vision.model import embed_images, embed_texts, load_base
from modalities.vision.pixels import to_pixels
from modalities.vision.word_tower import PROMPTS, class_texts
from serving.seeing import VisionEngine
from serving.senses import Asked, Sense, Told
from tests import sentences
from tests.modalities.vision import towers
from tests.modalities.vision.conftest import Pulled, pulled
from tests.modalities.vision.pictures import drawn
from tests.serving.image_adapters import LABELS, made, met

__all__ = ["pulled"]
PICTURES = [drawn(LABELS[seed % 3], seed, 40) for seed in range(5)]
TEXTS = ["a photo of a red thing", "blue", "the green one"]


@pytest.fixture
def eyes(pulled: Pulled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tower for images, and one for words that it has never met."""
    folder = sentences.tiny_embedding(tmp_path / "w", " ".join([*TEXTS, *LABELS, *PROMPTS]).replace(".", " . "))
    eyes = towers.timm_folder(tmp_path / "eyes", "test_efficientnet")
    monkeypatch.setenv("MOATELIER_EMBEDDING", "words")
    name = pulled(eyes=(eyes, "vision", "hf_vision"), words=(folder, "embedding", "hf_embedding"))
    settings.cache_clear()
    return name


@pytest.fixture
def clip(pulled: Pulled, tmp_path: Path) -> str:
    return pulled(clip=(towers.open_clip_folder(tmp_path / "clip"), "vision", "hf_vision"))


@pytest.mark.parametrize("kind", ["eyes", "clip"])
def test_vectors_are_those_of_the_tuned_model_for_images_and_for_words(
    request: pytest.FixtureRequest, kind: str
) -> None:
    base = request.getfixturevalue(kind)
    adapters = {f"met{seed}": met(base, "words" if kind == "eyes" else None, seed=seed) for seed in (0, 1)}
    engine = VisionEngine(base)
    for name, adapter in adapters.items():
        engine.load_adapter(name, adapter.folder)
    asked = [(image, name) for image in PICTURES for name in adapters]
    found = engine.embed([image for image, _ in asked], [name for _, name in asked])
    for vector, (image, name) in zip(found, asked, strict=True):
        assert np.allclose(vector, adapters[name].images([image])[0], atol=1e-4)
    for name, adapter in adapters.items():
        assert np.allclose(engine.embed_texts(TEXTS, name), adapter.texts(TEXTS), atol=1e-4)
    assert not np.allclose(engine.embed_texts(TEXTS, "met0"), engine.embed_texts(TEXTS, "met1"), atol=1e-2)


def test_the_image_tower_runs_once_for_all_contrastive_adapters(eyes: str) -> None:
    engine = VisionEngine(eyes)
    for seed in (0, 1):
        engine.load_adapter(f"met{seed}", met(eyes, "words", seed=seed).folder)
    engine.load_adapter("probe", made(eyes, "linear_probe").folder)
    engine.states.clear()
    before = engine.passes.work
    engine.embed([PICTURES[0]] * 2, ["met0", "met1"])
    engine.classify(PICTURES[:1], ["probe"])
    assert engine.passes.work - before == 5
    assert len(engine._towers._loaded) == 1


def test_classes_are_told_by_their_names_and_an_ensemble_of_prompts(eyes: str) -> None:
    engine, adapter = VisionEngine(eyes), met(eyes, "words", labels=LABELS)
    engine.load_adapter("met", adapter.folder)
    ranked = engine.zero_shot(PICTURES, LABELS, "met")
    prompted = adapter.texts(class_texts(LABELS)).view(3, len(PROMPTS), -1)
    classes = normalize(prompted.mean(dim=1), dim=-1)
    scale = engine._comparing.scale(engine._adapters.get("met"))
    expected = (scale * adapter.images(PICTURES) @ classes.T).softmax(dim=1)
    for found, chances in zip(ranked, expected, strict=True):
        assert [label for label, _ in found] == [LABELS[n] for n in chances.argsort(descending=True)]
        assert dict(found) == pytest.approx(dict(zip(LABELS, chances.tolist(), strict=True)), abs=1e-3)
    assert [dict(found) for found in engine.classify(PICTURES, ["met"] * 5)] == [
        pytest.approx(dict(found), abs=1e-5) for found in ranked
    ]
    assert engine._comparing.classes_seen.hits == 5, "the classes' words are read once"
    [plain] = engine.zero_shot(PICTURES[:1], LABELS, "met", prompts=["{}"])
    assert dict(plain) != pytest.approx(dict(ranked[0]), abs=1e-4)
    engine.rest()
    with pytest.raises(InvalidRequest, match="no classes"):
        engine.zero_shot(PICTURES, [], "met")


def test_towers_that_never_met_are_not_compared(eyes: str) -> None:
    engine = VisionEngine(eyes)
    engine.load_adapter("lora", made(eyes, "image_lora").folder)
    engine.load_adapter("met", met(eyes, "words").folder)
    for adapter in (None, "lora"):
        with pytest.raises(InvalidRequest, match="trained apart and never met"):
            engine.embed_texts(TEXTS, adapter)
        with pytest.raises(InvalidRequest, match="trained apart and never met"):
            engine.zero_shot(PICTURES, LABELS, adapter)
    with pytest.raises(InvalidRequest, match="vectors of 16 and 256 numbers"):
        engine.embed(PICTURES[:2], ["met", None])
    with pytest.raises(InvalidRequest, match="no labels"):
        engine.classify(PICTURES[:1], ["met"])
    with pytest.raises(NotFound):
        engine.embed_texts(TEXTS, "nobody")


def test_a_base_of_open_clip_needs_no_tuning(clip: str) -> None:
    engine, base = VisionEngine(clip), load_base(clip)
    pixels = torch.stack([to_pixels(image, base.config.transform) for image in PICTURES])
    with torch.inference_mode():
        images, texts = embed_images(base, pixels), embed_texts(base, TEXTS)
    assert np.allclose(engine.embed(PICTURES, [None] * 5), images, atol=1e-5)
    assert np.allclose(engine.embed_texts(TEXTS), texts, atol=1e-5)
    chances = (base.clip.logit_scale.exp() * images @ texts.T).softmax(dim=1)
    for found, expected in zip(engine.zero_shot(PICTURES, TEXTS, prompts=["{}"]), chances, strict=True):
        assert dict(found) == pytest.approx(dict(zip(TEXTS, expected.tolist(), strict=True)), abs=1e-4)


@pytest.mark.parametrize("kind", ["eyes", "clip"])
def test_classes_are_told_by_name_to_those_who_ask_together(request: pytest.FixtureRequest, kind: str) -> None:
    base = request.getfixturevalue(kind)
    engine = VisionEngine(base)
    name = None if kind == "clip" else "met"
    if name:
        engine.load_adapter(name, met(base, "words").folder)
    sense = Sense("vision", base, lambda _: engine)

    async def told() -> list[Told]:
        two = [Asked(picture, name, names=tuple(LABELS[:2])) for picture in PICTURES[:2]]
        return await asyncio.gather(*(sense.ask(each) for each in [*two, Asked(PICTURES[0], name, names=LABELS)]))

    *first, last = asyncio.run(told())
    for found, ranked in zip(first, engine.zero_shot(PICTURES[:2], LABELS[:2], name), strict=True):
        assert found.text == ranked[0][0] and dict(found.labels) == pytest.approx(dict(ranked), abs=1e-5)
    assert sorted(label for label, _ in last.labels) == sorted(LABELS)


def silent(files: dict[str, bytes]) -> None:
    files[WEIGHTS] = bytes(
        save({name: tensor * (0 if "lora_B" in name else 1) for name, tensor in load(files[WEIGHTS]).items()})
    )


def infinite(files: dict[str, bytes]) -> None:
    files[WEIGHTS] = bytes(save({name: tensor * float("inf") for name, tensor in load(files[WEIGHTS]).items()}))


def short(files: dict[str, bytes]) -> None:
    files[WEIGHTS] = bytes(save({name: tensor for name, tensor in load(files[WEIGHTS]).items() if name != "scale"}))


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ({"change": silent}, "does not change what words mean"),
        ({"change": infinite}, "not finite"),
        ({"change": short}, "lacks weights: 1"),
        ({"told": {"words": {"base": "words", "base_digest": "1" * 64, "first": 0}}}, "tuned with other words"),
        ({"told": {"words": {"base": "words"}}}, "does not say which words"),
        ({"told": {"words": "many"}}, "does not say which words"),
    ],
)
def test_a_bundle_that_must_not_be_served_is_refused(eyes: str, spoilt: dict[str, Any], told: str) -> None:
    engine = VisionEngine(eyes)
    with pytest.raises(IntegrityError, match=told):
        engine.load_adapter("name", met(eyes, "words", **spoilt).folder)
    assert not engine.adapters
