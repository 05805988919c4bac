"""The engine for images: whatever stands beside a row, it is answered as the tuned model itself answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

from moatelier.errors import (
    Cancelled,
    Conflict,
    DataError,
    IntegrityError,
    InvalidRequest,
    NotFound,
    ResourceExhausted,
)
from modalities.bundle import CONFIG, WEIGHTS
from modalities.vision.tuned import lora_layers
from serving.seeing import VisionEngine
from store import artifacts
from tests.modalities.vision import towers
from tests.modalities.vision.conftest import Pulled, pulled
from tests.modalities.vision.pictures import drawn, encoded
from tests.serving.image_adapters import LABELS, Made, made

__all__ = ["pulled"]
PICTURES = [drawn(LABELS[seed % 3], seed, 40) for seed in range(5)]
METHODS = ("linear_probe", "top_blocks", "image_lora")
TOWERS: dict[str, Any] = {
    "efficientnet": lambda folder: towers.timm_folder(folder, "test_efficientnet"),
    "timm transformer": lambda folder: towers.timm_folder(folder, "test_vit"),
    "whole": lambda folder: towers.timm_folder(folder, "test_convnext"),
    "open_clip transformer": towers.open_clip_folder,
    "open_clip resnet": lambda folder: towers.open_clip_folder(folder, towers.RESNET),
}
SIZES = {"timm transformer": 160, "whole": 160}


@pytest.fixture
def eyes(pulled: Pulled, tmp_path: Path) -> str:
    return pulled(eyes=(TOWERS["efficientnet"](tmp_path / "eyes"), "vision", "hf_vision"))


def loaded(engine: VisionEngine, **adapters: Made) -> None:
    for name, adapter in adapters.items():
        engine.load_adapter(name, adapter.folder)


def close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tower", TOWERS)
def test_a_row_in_a_mixed_batch_is_answered_as_alone_and_as_by_the_tuned_model(
    pulled: Pulled, tmp_path: Path, tower: str
) -> None:
    base = pulled(eyes=(TOWERS[tower](tmp_path / "eyes"), "vision", "hf_vision"))
    first, size = (0 if tower == "whole" else 2), SIZES.get(tower, 32)
    adapters = {
        f"{method}{seed}": made(base, method, seed=seed, first=max(0, first - seed), size=size)
        for method in METHODS
        for seed in (0, 1)
    }
    engine = VisionEngine(base)
    loaded(engine, **adapters)
    asked = [(image, name) for image in PICTURES[:3] for name in adapters]
    images, names = [image for image, _ in asked], [name for _, name in asked]
    together = engine.logits(images, names)
    close(together, [adapters[name].logits([image])[0] for image, name in asked])
    alone = VisionEngine(base)
    loaded(alone, **adapters)
    for image, name, logits in zip(images, names, together, strict=True):
        alone.states.clear()
        close(alone.logits([image], [name]), [logits])


def test_labels_come_with_probabilities_best_first(eyes: str) -> None:
    engine, probe = VisionEngine(eyes), made(eyes, "linear_probe", head=2.0)
    loaded(engine, probe=probe)
    [ranked] = engine.classify(PICTURES[:1], ["probe"])
    chances = probe.logits(PICTURES[:1])[0].softmax(dim=0)
    assert [label for label, _ in ranked] == [LABELS[n] for n in chances.argsort(descending=True)]
    assert [chance for _, chance in ranked] == pytest.approx(sorted(chances.tolist(), reverse=True), abs=1e-4)
    assert engine.classify([], []) == []


def test_frozen_stages_run_once_for_all_adapters_of_an_image(eyes: str) -> None:
    """5 stages: the base's own once, then from stage 2 on 3 for each of the adapters that change something."""
    engine = VisionEngine(eyes)
    loaded(engine, **{method: made(eyes, method) for method in METHODS}, other=made(eyes, "image_lora", seed=1))
    names = [*METHODS, "other"]
    engine.states.clear()
    before = engine.passes.work
    engine.classify([PICTURES[0]] * 4, names)
    assert engine.passes.work - before == 5 + 3 * 3
    engine.classify([PICTURES[0]] * 4, names)
    assert engine.passes.work - before == 5 + 3 * 3, "asked again, it is known"
    engine.classify([PICTURES[1]], ["image_lora"])
    before = engine.passes.work
    engine.classify([PICTURES[1]], ["linear_probe"])
    assert engine.passes.work - before == 3, "it goes on from where the other adapter began"


def test_another_transform_shares_nothing(eyes: str) -> None:
    engine, small = VisionEngine(eyes), made(eyes, "image_lora", size=24)
    loaded(engine, small=small, usual=made(eyes, "image_lora"))
    engine.classify(PICTURES[:1], ["usual"])
    close(engine.logits(PICTURES[:1], ["small"]), list(small.logits(PICTURES[:1])))


def test_a_name_that_stands_for_another_adapter_finds_nothing_of_the_first(eyes: str) -> None:
    engine = VisionEngine(eyes)
    one, other = (made(eyes, "image_lora", seed=seed) for seed in (0, 3))
    loaded(engine, name=one)
    engine.classify(PICTURES[:1], ["name"])
    engine.unload_adapter("name")
    loaded(engine, name=other)
    close(engine.logits(PICTURES[:1], ["name"]), list(other.logits(PICTURES[:1])))


def test_what_is_kept_has_a_bound_and_evicted_weights_come_back(eyes: str) -> None:
    adapters = {f"{method}{n}": made(eyes, method, seed=n) for n in range(3) for method in METHODS[1:]}
    engine = VisionEngine(eyes)
    loaded(engine, **adapters)
    largest = max(each.size for each in engine._adapters.all())
    engine = VisionEngine(eyes, memory_gb=2.5 * largest / 1e9)
    loaded(engine, **adapters)
    for _ in range(2):
        for name, adapter in adapters.items():
            close(engine.logits(PICTURES, [name] * 5), list(adapter.logits(PICTURES)))
            assert engine.memory.used <= engine.memory.limit and engine.memory.held == 0
    assert engine.memory.evicted > 10
    with pytest.raises(ResourceExhausted, match="no room"):
        engine.classify([PICTURES[0]] * 6, list(adapters))
    engine.rest()
    for name in adapters:
        engine.unload_adapter(name)
    assert engine.memory.used == 0


def test_a_pinned_adapter_stays(eyes: str) -> None:
    adapters = [made(eyes, "top_blocks", seed=n) for n in range(3)]
    engine = VisionEngine(eyes)
    loaded(engine, one=adapters[0])
    engine = VisionEngine(eyes, memory_gb=2.5 * engine._adapters.get("one").size / 1e9)
    engine.load_adapter("pinned", adapters[0].folder, pinned=True)
    loaded(engine, one=adapters[1], other=adapters[2])
    assert engine._adapters.get("pinned").weights is not None and engine._adapters.get("one").weights is None


def test_vectors_are_of_unit_length_and_an_adapters_are_its_own(eyes: str) -> None:
    engine = VisionEngine(eyes)
    loaded(engine, lora=made(eyes, "image_lora"), probe=made(eyes, "linear_probe"))
    vectors = engine.embed([PICTURES[0]] * 3, [None, "probe", "lora"])
    assert vectors.shape == (3, 256) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors[0], vectors[1]) and not np.allclose(vectors[0], vectors[2], atol=1e-3)
    assert engine.embed([], []).shape == (0, 256)


def test_answers_prompts_as_any_engine_does(eyes: str) -> None:
    engine, probe = VisionEngine(eyes), made(eyes, "linear_probe", head=2.0)
    loaded(engine, probe=probe)
    prompts = [[{"role": "user", "content": [part(image)]}] for image in PICTURES * 7]
    seen: list[int] = []
    answers = engine.generate(prompts, adapter="probe", progress=seen.append)
    expected = [LABELS[n] for n in probe.logits(PICTURES).argmax(dim=1)] * 7
    assert [answer.text for answer in answers] == expected and seen == [32, 35]
    assert {answer.finish_reason for answer in answers} == {"stop"}
    assert engine.generate(prompts[:1])[0].text == ""
    with pytest.raises(InvalidRequest, match="no image") as caught:
        engine.generate([*prompts[:1], [{"role": "user", "content": "What is this?"}]], adapter="probe")
    assert "prompt 1" in caught.value.where
    with pytest.raises(DataError, match="no image of a known format"):
        broken = {"type": "image", "artifact": artifacts.put_bytes(b"no image")}
        engine.generate([[{"role": "user", "content": [broken]}]], adapter="probe")
    with pytest.raises(Cancelled):
        engine.generate(prompts, adapter="probe", progress=stop)


def part(image: Image.Image) -> dict[str, str]:
    return {"type": "image", "artifact": artifacts.put_bytes(encoded(image))}


def stop(_: int) -> None:
    raise Cancelled("enough")


def test_who_has_no_labels_is_not_asked(eyes: str) -> None:
    engine = VisionEngine(eyes)
    with pytest.raises(InvalidRequest, match="`eyes` has no labels"):
        engine.classify(PICTURES[:1], [None])
    for ask in (engine.classify, engine.embed):
        with pytest.raises(NotFound, match="`nobody`"):
            ask(PICTURES[:1], ["nobody"])
    with pytest.raises(NotFound):
        engine.unload_adapter("nobody")


def test_the_same_bundle_again_changes_nothing_another_is_refused(eyes: str) -> None:
    engine, one = VisionEngine(eyes), made(eyes, "linear_probe")
    manifest = engine.load_adapter("name", one.folder)
    used = engine.memory.used
    assert engine.load_adapter("name", one.folder) == manifest and engine.memory.used == used
    assert engine.adapters == {"name": manifest}
    with pytest.raises(Conflict, match="Another bundle"):
        engine.load_adapter("name", made(eyes, "linear_probe", seed=1).folder)
    with pytest.raises(NotFound):
        engine.load_adapter("nothing", one.folder / "nothing")


def without_a_tensor(files: dict[str, bytes]) -> None:
    tensors = load(files[WEIGHTS])
    del tensors[sorted(tensors)[-1]]
    files[WEIGHTS] = bytes(save(tensors))


def misshapen(files: dict[str, bytes]) -> None:
    tensors = load(files[WEIGHTS])
    name = sorted(tensors)[-1]
    files[WEIGHTS] = bytes(save(tensors | {name: tensors[name][:1]}))


def infinite(files: dict[str, bytes]) -> None:
    files[WEIGHTS] = bytes(save({name: tensor * float("inf") for name, tensor in load(files[WEIGHTS]).items()}))


def unreadable(files: dict[str, bytes]) -> None:
    files[WEIGHTS] = b"no tensors"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ({"change": without_a_tensor}, "lacks weights: 1"),
        ({"change": misshapen}, "misshapen weights: 1"),
        ({"change": unreadable}, "not readable"),
        ({"change": infinite}, "not finite"),
        ({"loud": 0.0, "head": 0.0}, "does not change what the base sees|tells no image from another"),
        ({"told": {"transform": None}}, "does not say how images come in"),
        ({"template_digest": "1" * 64}, "template"),
        ({"base_digest": "1" * 64}, "was tuned on base"),
        ({"modality": "text"}, "does not run adapters of text"),
    ],
)
def test_a_bundle_that_must_not_be_served_is_refused(eyes: str, method: str, spoilt: dict[str, Any], told: str) -> None:
    engine, bundle = VisionEngine(eyes), made(eyes, method, **spoilt).folder
    with pytest.raises(IntegrityError, match=told):
        engine.load_adapter("name", bundle)
    engine.rest()
    assert not engine.adapters and engine.memory.used == engine.memory.held == 0


def test_a_changed_byte_is_told(eyes: str) -> None:
    bundle = made(eyes, "image_lora").folder
    (bundle / CONFIG).write_bytes((bundle / CONFIG).read_bytes().replace(b'"size":32', b'"size":33'))
    with pytest.raises(IntegrityError, match="adapter_config.json was changed"):
        VisionEngine(eyes).load_adapter("name", bundle)


def test_other_kinds_of_lora_are_refused(eyes: str) -> None:
    engine = VisionEngine(eyes)
    for told in ({"use_dora": True}, {"modules_to_save": ["class_head", "tower"]}, {"bias": "all"}):
        with pytest.raises(IntegrityError, match="not plain LoRA"):
            engine.load_adapter("name", made(eyes, "image_lora", told=told).folder)
    names = lora_layers(engine.base.tower, 0)
    with pytest.raises(IntegrityError, match="misshapen|lacks"):
        engine.load_adapter("name", made(eyes, "image_lora", told={"rank_pattern": dict.fromkeys(names, 8)}).folder)


def test_a_size_that_the_tower_cannot_take_is_refused(pulled: Pulled, tmp_path: Path) -> None:
    base = pulled(clip=(towers.open_clip_folder(tmp_path / "clip"), "vision", "hf_vision"))
    engine = VisionEngine(base)
    other = engine.base.config.transform.at(48)
    told = {"transform": other.model_dump(mode="json")}
    with pytest.raises(IntegrityError, match="32 pixels only, not 48"):
        engine.load_adapter("name", made(base, "linear_probe", told=told, template_digest=other.digest).folder)
