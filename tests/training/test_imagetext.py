"""Training of image-language adapters: the same loop, checkpoints and bits as text and images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from moatelier.contracts import DatasetCard, TrainResult, TrainSpec
from moatelier.errors import Cancelled, DataError, IntegrityError, InvalidRequest, NotFound
from moatelier.job import Job
from modalities.bundle import CONFIG, WEIGHTS, bundle_folder, open_bundle
from modalities.imagetext import data
from modalities.imagetext.config import PROJECTOR, SIGHT, read_sight
from modalities.text.model import load_base
from store import artifacts
from tests.sighted import LABELS, both, questions, spec
from tests.training.test_run import StopAt
from training.imagetext import prepare
from training.run import read_rows, work

__all__ = ["both"]


def train(home: Path, fields: dict[str, Any], name: str = "job") -> TrainResult:
    return TrainResult.model_validate(work(fields, Job(home / "jobs" / name, quiet=True)))


def test_the_loss_falls_and_a_bundle_of_four_files_is_sealed(home: Path, both: str) -> None:
    result = train(home, spec(questions(24, 6), epochs=8.0, rank=16, learning_rate=0.02))
    assert result.train_loss < 0.95 * result.curve[0][1] and result.dev_loss is not None
    base, folder = load_base("tiny", "fp32"), bundle_folder(result.bundle)
    manifest = open_bundle(folder, base_digest=base.digest, template_digest=base.template_digest)
    assert (manifest.modality, manifest.kind, manifest.first_layer, manifest.labels) == ("imagetext", "chat", 4, LABELS)
    assert set(manifest.files) == {CONFIG, WEIGHTS, PROJECTOR, SIGHT}
    sight = read_sight(folder)
    assert (sight.base, sight.vectors, sight.transform.size) == ("eyes", 1, 32)
    assert all("lora_" in name for name in load((folder / WEIGHTS).read_bytes()))
    assert load((folder / PROJECTOR).read_bytes())["mean"].abs().sum() > 0
    assert "<mark>" in (home / "jobs" / "job" / "preflight.html").read_text()


@pytest.mark.parametrize("size", [32, 96])
def test_a_stopped_training_goes_on_to_the_same_bits(home: Path, both: str, size: int) -> None:
    fields = spec(questions(6, 3), size=size)
    undisturbed = train(home, fields, "undisturbed")
    for step in (1, 4):
        with pytest.raises(Cancelled):
            work(fields, StopAt(home / "jobs" / "stopped", "progress", step))
    resumed = train(home, fields, "stopped")
    assert resumed.bundle == undisturbed.bundle and resumed.curve == undisturbed.curve


def test_the_caches_do_not_change_what_is_learnt(home: Path, both: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = spec(questions(6, 3))
    cached = train(home, fields, "cached")
    monkeypatch.setattr("modalities.frozen._make_room", lambda *_: False)
    for filled in (home / "frozen").glob("*/filled"):
        filled.unlink()
    computed = train(home, fields, "computed")
    assert dict(cached.curve) == pytest.approx(dict(computed.curve), rel=1e-3)


def test_the_loss_sees_the_picture_and_only_its_own(home: Path, both: str) -> None:
    digest = questions(6, 0)
    card = DatasetCard.model_validate(artifacts.get_json(digest))
    rows = {"train": read_rows(card, "train"), "dev": []}
    objective = prepare(TrainSpec.model_validate(spec(digest)), card, rows, Job(home / "jobs" / "j", quiet=True))
    try:
        objective.model.eval()
        with torch.no_grad():
            alone = [float(objective.loss([row])) for row in range(4)]
            assert float(objective.loss(range(4))) == pytest.approx(sum(alone), rel=1e-4)
            objective.model.projector.outer.weight.zero_()
            assert abs(float(objective.loss([0])) - alone[0]) > 1e-6
        with pytest.raises(IntegrityError, match="projector"):
            objective.restore({name: tensor for name, tensor in objective.weights().items() if "offset" not in name})
    finally:
        objective.close()


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"vision": None}, InvalidRequest, "names no vision base"),
        ({"vision": "tiny"}, Exception, "tiny"),
        ({"layers": "all"}, InvalidRequest, "some must stay frozen"),
        ({"method": "lora"}, NotFound, "Use one of llava"),
        ({"rank": 300}, InvalidRequest, "above the limit"),
        ({"max_tokens": 10}, DataError, "Shorten the row"),
        ({"max_seconds": 1e-6}, Exception, "before the first step"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    home: Path, both: str, changes: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        train(home, spec(questions(6, 0), **changes))
    assert not (home / "adapters").exists()


def test_a_damaged_picture_is_refused(home: Path, both: str) -> None:
    digest = questions(6, 0)
    card = DatasetCard.model_validate(artifacts.get_json(digest))
    [first, *_] = data.parse_rows(artifacts.get_bytes(str(card.splits["train"].artifact)))
    artifacts.path(first.image).write_bytes(b"not a picture")
    with pytest.raises(IntegrityError):
        train(home, spec(digest))
