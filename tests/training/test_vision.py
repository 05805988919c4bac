"""Training of image adapters: the same loop, checkpoints and bits as text."""

import json
from pathlib import Path
from typing import Any

import pytest

from moatelier.contracts import Columns, DatasetCard, SplitInfo, TrainResult, TrainSpec
from moatelier.errors import Cancelled, DataError, InvalidRequest, NotFound
from moatelier.job import Job
from modalities.bundle import CONFIG, bundle_folder, open_bundle
from modalities.vision import data
from modalities.vision.model import load_base
from modalities.vision.rows import ImageRow
from store import artifacts
from tests.modalities.vision.conftest import Pulled, pulled
from tests.modalities.vision.pictures import COLOURS, drawn, encoded
from tests.modalities.vision.towers import timm_folder
from tests.training.rows import dataset
from tests.training.rows import rows as text_rows
from tests.training.test_run import StopAt
from training.run import work

__all__ = ["pulled"]
LABELS = tuple(sorted(COLOURS))


@pytest.fixture
def base(pulled: Pulled, tmp_path: Path) -> str:
    return pulled(eyes=(timm_folder(tmp_path / "eyes"), "vision", "hf_vision"))


def rows(count: int, start: int = 0) -> list[ImageRow]:
    made = []
    for seed in range(start, start + count):
        label = LABELS[seed % 3]
        image = artifacts.put_bytes(encoded(drawn(label, seed, 48)))
        made.append(ImageRow(seed + 1, image, image, label=label))
    return made


def card(train: list[ImageRow], dev: list[ImageRow]) -> str:
    like = DatasetCard.model_validate(artifacts.get_json(dataset(text_rows(3), [])))
    splits = {
        name: SplitInfo(rows=len(split), artifact=artifacts.put_bytes(data.write_rows(split)))
        for name, split in (("train", train), ("dev", dev))
    }
    fields = {
        "modality": "vision",
        "labels": LABELS,
        "splits": splits,
        "columns": Columns(input="image", target="label"),
    }
    return artifacts.put_json(like.model_copy(update=fields))


def spec(digest: str, **changes: Any) -> dict[str, Any]:
    fields = {"method": "top_blocks", "base": "eyes", "dataset": digest, "suffix": "colours", "epochs": 3.0}
    fields |= {"batch_rows": 6, "checkpoint_every": 2, "learning_rate": 1e-3, "rank": 4}
    return TrainSpec.model_validate(fields | changes).model_dump()


def train(home: Path, fields: dict[str, Any], name: str = "job") -> TrainResult:
    return TrainResult.model_validate(work(fields, Job(home / "jobs" / name, quiet=True)))


@pytest.mark.parametrize("method", ["top_blocks", "image_lora"])
def test_tuning_goes_on_from_the_probe_and_learns(home: Path, base: str, method: str) -> None:
    made = card(rows(24), rows(9, start=24))
    probe = train(home, spec(made, method="linear_probe"), "probe")
    tuned = train(home, spec(made, method=method, epochs=6.0), "tuned")
    assert probe.steps == 0 and probe.bundle != tuned.bundle
    assert tuned.curve[0][1] == pytest.approx(probe.train_loss, abs=0.4)  # the head starts as the probe
    assert tuned.train_loss < probe.train_loss and tuned.steps == 24
    loaded = load_base(base)
    folder, transform = bundle_folder(tuned.bundle), loaded.config.transform
    manifest = open_bundle(folder, base_digest=loaded.digest, template_digest=transform.digest)
    assert (manifest.modality, manifest.labels, manifest.first_layer) == ("vision", LABELS, 4)
    assert json.loads((folder / CONFIG).read_bytes())["transform"] == transform.model_dump(mode="json")


@pytest.mark.parametrize("layers", ["top_third", "all"])
def test_a_stopped_training_goes_on_to_the_same_bits(home: Path, base: str, layers: str) -> None:
    fields = spec(card(rows(12), rows(3, start=12)), layers=layers, size=16)
    undisturbed = train(home, fields, "undisturbed")
    with pytest.raises(Cancelled):
        work(fields, StopAt(home / "jobs" / "stopped", "progress", 3))
    resumed = train(home, fields, "stopped")
    assert resumed.bundle == undisturbed.bundle and resumed.curve == undisturbed.curve


def test_the_size_of_images_is_sealed_and_old_specs_keep_their_digests(home: Path, base: str) -> None:
    made = card(rows(6), [])
    small, usual = (train(home, spec(made, epochs=1.0, size=size), str(size)) for size in (16, None))
    assert small.bundle != usual.bundle
    assert "size" not in TrainSpec.model_validate(spec(made)).model_dump()


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"method": "lora"}, NotFound, "no method 'lora' to tune vision models. (method) Use one of image_lora"),
        ({"dataset": "others"}, DataError, "'violet' is none"),
        ({"dataset": "one"}, DataError, "rows of each"),
        ({"max_seconds": 1e-6}, Exception, "before the first step"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    home: Path, base: str, changes: dict[str, Any], error: type[Exception], told: str
) -> None:
    violet = [ImageRow(7, row.image, row.pixels, label="violet") for row in rows(1)]
    datasets = {"others": [*rows(6), *violet], "one": [row for row in rows(9) if row.label == "red"]}
    made = card(datasets.get(changes.get("dataset", ""), rows(6)), [])
    with pytest.raises(error) as caught:
        train(home, spec(**{"digest": made} | {key: value for key, value in changes.items() if key != "dataset"}))
    assert told.split(" (")[0] in str(caught.value)
    assert not (home / "adapters").exists()


def test_a_size_the_tower_cannot_take_is_refused(home: Path, pulled: Pulled, tmp_path: Path) -> None:
    pulled(eyes=(timm_folder(tmp_path / "vit", "test_vit"), "vision", "hf_vision"))
    with pytest.raises(InvalidRequest, match="pixels only"):
        train(home, spec(card(rows(6), []), size=64))
