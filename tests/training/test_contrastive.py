"""Images and captions meet by training: recall rises both ways, and what is locked keeps its bits."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moatelier.contracts import SplitName, TrainSpec
from moatelier.errors import Cancelled, Conflict, DataError, IntegrityError
from moatelier.job import Job
from moatelier.settings import settings
from modalities.bundle import CONFIG, bundle_folder, read_manifest
from modalities.vision.config import WordsTold
from modalities.vision.metrics import recall_at
from modalities.vision.model import embed_images, embed_texts, load_base
from modalities.vision.pairs import Pairs, pair_loss
from modalities.vision.pixels import to_pixels
from modalities.vision.rows import ImageRow
from serving.seeing import VisionEngine
from store import artifacts, datasets
from tests import sentences
from tests.media import CAPTIONS, SPOKEN, shown
from tests.modalities.vision import towers
from tests.modalities.vision.conftest import Pulled, pulled
from tests.modalities.vision.pictures import encoded
from tests.training.test_run import StopAt
from tests.training.test_vision import card, train
from training import contrastive, vision
from training.checkpoint import State
from training.loop import Loop
from training.methods import contrastive as method
from training.run import read_rows, work

__all__ = ["pulled"]


@pytest.fixture
def eyes(pulled: Pulled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tower for images beside one for words that it has never met."""
    folder = sentences.tiny_embedding(tmp_path / "w", SPOKEN)
    eyes = towers.timm_folder(tmp_path / "eyes", "test_efficientnet")
    monkeypatch.setenv("MOATELIER_EMBEDDING", "words")
    name = pulled(eyes=(eyes, "vision", "hf_vision"), words=(folder, "embedding", "hf_embedding"))
    settings.cache_clear()
    return name


def rows(count: int, start: int = 0, **fields: Any) -> list[ImageRow]:
    made = []
    for seed in range(start, start + count):
        (colour, place), caption = list(CAPTIONS.items())[seed % len(CAPTIONS)]
        image = artifacts.put_bytes(encoded(shown(colour, place, seed)))
        made.append(ImageRow(seed + 1, image, image, **({"caption": caption} | fields)))
    return made


def spec(digest: str, base: str = "eyes", **changes: Any) -> dict[str, Any]:
    fields = {"method": "contrastive", "base": base, "dataset": digest, "suffix": "pairs", "epochs": 12.0, "rank": 4}
    fields |= {"batch_rows": 18, "learning_rate": 5e-3, "checkpoint_every": 2, "alpha": 8.0}
    return TrainSpec.model_validate(fields | changes).model_dump()


def recall(engine: VisionEngine, adapter: str | None, vectors: Any = None) -> tuple[float, float]:
    """Recall@1 on new pictures, from images to captions and back."""
    texts = list(CAPTIONS.values())
    images = [shown(colour, place, 900 + n) for n, (colour, place) in enumerate(CAPTIONS)]
    found = vectors or (engine.embed(images, [adapter] * len(images)), engine.embed_texts(texts, adapter))
    return recall_at((found[0] @ found[1].T).astype(np.float64), texts, texts, 1)


def untuned(base_id: str, words: str | None) -> tuple[Any, Any]:
    """What the base made of pictures and captions before it was tuned."""
    base = load_base(base_id, text=words)
    images = [shown(colour, place, 900 + n) for n, (colour, place) in enumerate(CAPTIONS)]
    pixels = torch.stack([to_pixels(image, base.config.transform) for image in images])
    with torch.inference_mode():
        return tuple(
            found.numpy()
            for found in (
                embed_images(base, pixels, tuned=True),
                embed_texts(base, list(CAPTIONS.values()), tuned=True),
            )
        )


@pytest.fixture
def clip(pulled: Pulled, tmp_path: Path) -> str:
    """Two towers that were trained together."""
    return pulled(clip=(towers.open_clip_folder(tmp_path / "clip"), "vision", "hf_vision"))


@pytest.mark.parametrize("kind", ["eyes", "clip"])
def test_recall_rises_both_ways(home: Path, request: pytest.FixtureRequest, kind: str) -> None:
    base = request.getfixturevalue(kind)
    result = train(home, spec(card(rows(72), rows(9, start=72)), base))
    assert result.train_loss < result.curve[0][1] and result.dev_curve[-1][1] < result.dev_curve[0][1]
    engine = VisionEngine(base)
    engine.load_adapter("met", bundle_folder(result.bundle))
    before, after = recall(engine, None, untuned(base, "words" if base == "eyes" else None)), recall(engine, "met")
    assert after[0] >= before[0] + 0.2 and after[1] >= before[1] + 0.2, (before, after)


@contextmanager
def prepared(home: Path, fields: dict[str, Any]) -> Iterator[tuple[Any, int]]:
    """The objective with its rows, and how many are for training."""
    card = datasets.get_card(fields["dataset"])
    splits: tuple[SplitName, ...] = ("train", "dev")
    found = {name: read_rows(card, name) for name in splits}
    made = vision.prepare(TrainSpec.model_validate(fields), card, found, Job(home / "jobs" / "p", quiet=True))
    try:
        yield made, len(found["train"])
    finally:
        made.close()


@pytest.mark.parametrize("kind", ["eyes", "clip"])
def test_what_is_locked_keeps_its_bits(home: Path, request: pytest.FixtureRequest, kind: str) -> None:
    base = request.getfixturevalue(kind)
    fields = spec(card(rows(18), []), base, epochs=2.0)
    plan = TrainSpec.model_validate(fields)
    with prepared(home, fields) as (made, train_rows):
        tuned = {name for name, weight in made.model.named_parameters() if weight.requires_grad}
        assert {"scale"} <= tuned and all("lora_" in name for name in tuned if name.startswith("text."))
        assert ({"project.weight", "project.bias"} <= tuned) == (kind == "eyes")
        frozen = {name: weight for name, weight in made.model.named_parameters() if name not in tuned}
        frozen |= {f"tower.{name}": tensor for name, tensor in made._base.tower.state_dict().items()}
        before = {name: tensor.clone() for name, tensor in frozen.items()}
        start = {name: tensor.clone() for name, tensor in made.weights().items()}
        state = State(spec=plan.digest, data=made.data)
        Loop(plan, made, train_rows, Job(home / "jobs" / "l", quiet=True), state).run()
        assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.items())
        changed = [name for name, tensor in made.weights().items() if not torch.equal(tensor, start[name])]
        assert "scale" in changed and any("lora_B" in name for name in changed)


def test_a_stopped_training_goes_on_to_the_same_bits(home: Path, eyes: str) -> None:
    fields = spec(card(rows(36), rows(9, start=36)), epochs=2.0, dropout=0.1)
    undisturbed = train(home, fields, "undisturbed")
    with pytest.raises(Cancelled):
        work(fields, StopAt(home / "jobs" / "stopped", "progress", 3))
    assert train(home, fields, "stopped").bundle == undisturbed.bundle


def test_other_words_are_refused_while_training_and_while_serving(
    home: Path, pulled: Pulled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {name: sentences.tiny_embedding(tmp_path / name, f"a thing {name}") for name in ("one", "other")}
    models = {name: (folder, "embedding", "hf_embedding") for name, folder in folders.items()}
    pulled(eyes=(towers.timm_folder(tmp_path / "eyes", "test_efficientnet"), "vision", "hf_vision"), **models)

    def choose(name: str) -> None:
        monkeypatch.setenv("MOATELIER_EMBEDDING", name)
        settings.cache_clear()

    choose("one")
    fields = spec(card(rows(18), []), epochs=4.0)
    with pytest.raises(Cancelled):
        work(fields, StopAt(home / "jobs" / "stopped", "progress", 2))
    choose("other")
    with pytest.raises(Conflict, match="training data changed"):
        train(home, fields, "stopped")
    bundle = bundle_folder(train(home, fields, "new").bundle)
    told = json.loads((bundle / CONFIG).read_bytes())
    assert told["words"]["base"] == "other" and read_manifest(bundle).first_layer == 5
    engine = VisionEngine("eyes")
    engine.load_adapter("met", bundle)
    towers_of = engine._towers
    with pytest.raises(IntegrityError, match="tuned with other words"):
        towers_of.found(WordsTold.model_validate(told["words"] | {"base": "one"}), "bundle")


def test_a_label_is_a_caption_where_there_is_none(home: Path, eyes: str) -> None:
    labelled = [ImageRow(row.number, row.image, row.pixels, label="red_thing") for row in rows(4)]
    with prepared(home, spec(card([*labelled[:2], *rows(2, start=2)], []))) as (made, _):
        assert made._captions[:3] == ["a photo of a red thing."] * 2 + [rows(3)[2].caption]
    bare = spec(card(rows(2, caption=None), []))
    with pytest.raises(DataError, match="neither a caption nor a label"), prepared(home, bare):
        pass


def test_weights_come_back_and_others_are_refused(eyes: str) -> None:
    base, plan = load_base(eyes, text="words"), TrainSpec.model_validate(spec("d" * 64))
    model = method.attach(Pairs(base), plan, 0)
    before = {name: tensor.clone() for name, tensor in method.weights(model).items()}
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    assert not any(torch.equal(tensor, before[name]) for name, tensor in method.weights(model).items())
    method.restore(model, before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.weights(model).items())
    for wrong in (before | {"more": torch.zeros(1)}, {name: before[name] for name in before if name != "scale"}):
        with pytest.raises(IntegrityError, match="do not belong"):
            method.restore(model, wrong)


def test_the_loss_is_cross_entropy_both_ways() -> None:
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    alone, target = torch.eye(5, dtype=torch.bool), torch.arange(5)
    expected = (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2 * 5
    torch.testing.assert_close(pair_loss(logits, alone), expected)


def test_partners_in_a_batch_do_not_push_each_other_away() -> None:
    partners = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    logits = torch.tensor([[9.0, 9, 0], [9, 9, 0], [0, 0, 9]])
    pulls = []
    for right in (partners, torch.eye(3, dtype=torch.bool)):
        tried = logits.clone().requires_grad_()
        [pull] = torch.autograd.grad(pair_loss(tried, right), tried)
        pulls.append(float(pull.abs().max()))
    assert pulls[0] < 0.01 < 0.4 < pulls[1]


def test_a_projection_starts_as_a_regression_to_the_words() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 12, generator=generator) * torch.arange(1, 13) + 5
    vectors = features @ torch.randn(12, 4, generator=generator) / 50 + 0.3
    weight, bias = contrastive.fit_projection(features, vectors)
    assert weight.shape == (4, 12) and weight.dtype == bias.dtype == torch.float32
    found: Tensor = features @ weight.T + bias
    assert float((found - vectors).square().mean() / vectors.var(dim=0).mean()) < 0.01
