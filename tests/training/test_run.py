"""The training job through its public face: `work(spec, job)` and the files it leaves."""

import json
from pathlib import Path
from typing import Any

import pytest

from moatelier.contracts import TrainResult
from moatelier.errors import Cancelled, Conflict, DataError, IntegrityError, NotFound, ResourceExhausted
from moatelier.job import Job
from modalities import catalogue
from modalities.bundle import bundle_folder, open_bundle
from modalities.text.model import load_base
from store import artifacts
from tests.training.rows import dataset, rows, spec
from training.run import work


def train(home: Path, fields: dict[str, Any], name: str = "job") -> TrainResult:
    return TrainResult.model_validate(work(fields, Job(home / "jobs" / name, quiet=True)))


def events(home: Path, kind: str, name: str = "job") -> list[dict[str, Any]]:
    lines = (home / "jobs" / name / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


@pytest.fixture
def card(tiny: str) -> str:
    return dataset(rows(30), rows(9, start=30))


def test_a_training_seals_a_bundle_that_opens(home: Path, card: str) -> None:
    result = train(home, spec(card, rank=16, epochs=8.0, learning_rate=0.02).model_dump())
    assert (result.steps, result.epochs, result.stopped, result.precision) == (40, 8.0, "finished", "fp32")
    assert result.train_loss < 0.97 * result.curve[0][1]
    assert result.dev_loss is not None and [step for step, _ in result.dev_curve] == list(range(5, 41, 5))
    base = load_base("tiny", "fp32")
    folder = bundle_folder(result.bundle)
    manifest = open_bundle(folder, base_digest=base.digest, template_digest=base.template_digest)
    assert (manifest.first_layer, manifest.labels) == (4, ("broken", "parcel", "refund"))
    assert manifest.system == "Name the category of the message."
    assert manifest.licence == catalogue.get("tiny").licence
    assert manifest.digest == result.bundle


def test_progress_metrics_and_the_coloured_tokens_are_left_behind(home: Path, card: str) -> None:
    train(home, spec(card).model_dump())
    progress = events(home, "progress")
    assert [event["step"] for event in progress] == list(range(1, 11))
    assert progress[0]["body"].keys() >= {"phase", "steps", "loss", "tokens_per_s", "seconds_left", "lr"}
    assert progress[-1]["body"]["seconds_left"] == 0
    assert [event["step"] for event in events(home, "metrics")] == [5, 10]
    page = (home / "jobs" / "job" / "preflight.html").read_text()
    assert "<mark>" in page and "&lt;|im_end|&gt;" in page


def test_the_same_spec_gives_the_same_bundle_and_another_seed_another(home: Path, card: str) -> None:
    first = train(home, spec(card).model_dump(), "a")
    again = train(home, spec(card).model_dump(), "b")
    other = train(home, spec(card, seed=1).model_dump(), "c")
    assert first.bundle == again.bundle != other.bundle
    assert first.curve == again.curve


class StopAt(Job):
    """A job that is asked to stop when it reports a step."""

    def __init__(self, folder: Path, kind: str, step: int) -> None:
        super().__init__(folder, quiet=True)
        self._at = (kind, step)

    def emit(self, kind: str, step: int = 0, **body: Any) -> None:
        super().emit(kind, step, **body)
        if (kind, step) == self._at:
            self.stop_reason = "SIGTERM"


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_stopped_training_goes_on_to_the_same_bits(home: Path, card: str, dropout: float) -> None:
    fields = spec(card, dropout=dropout).model_dump()
    undisturbed = train(home, fields, "undisturbed")
    for step in (3, 5, 8):
        with pytest.raises(Cancelled):
            work(fields, StopAt(home / "jobs" / "job", "progress", step))
    resumed = train(home, fields)
    assert resumed.curve == undisturbed.curve and resumed.dev_curve == undisturbed.dev_curve
    assert resumed.bundle == undisturbed.bundle
    assert [event["step"] for event in events(home, "progress")] == list(range(1, 11))


def test_stopped_while_the_cache_is_filled(home: Path, card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.inputs.FILL_TOKENS", 200)
    fields = spec(card).model_dump()
    with pytest.raises(Cancelled):
        work(fields, StopAt(home / "jobs" / "job", "frozen", 2))
    result = train(home, fields)
    assert len(events(home, "frozen")) == events(home, "frozen")[-1]["body"]["batches"]
    for cache in (home / "frozen").iterdir():
        if cache.is_dir():
            (cache / "filled").unlink()
    assert train(home, fields, "again").bundle == result.bundle


def test_a_changed_spec_or_changed_data_refuses_to_resume(home: Path, card: str) -> None:
    with pytest.raises(Cancelled):
        work(spec(card).model_dump(), StopAt(home / "jobs" / "job", "progress", 3))
    with pytest.raises(Conflict, match="training spec changed"):
        train(home, spec(card, learning_rate=1e-3).model_dump())


def test_the_cache_does_not_change_what_is_learnt(home: Path, card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = train(home, spec(card).model_dump(), "cached")
    monkeypatch.setattr("modalities.frozen._make_room", lambda *_: False)
    for folder in (home / "frozen").iterdir():
        if folder.is_dir():
            (folder / "filled").unlink()
    computed = train(home, spec(card).model_dump(), "computed")
    assert dict(cached.curve) == pytest.approx(dict(computed.curve), rel=1e-4)


def test_all_layers_can_be_tuned(home: Path, card: str) -> None:
    result = train(home, spec(card, layers="all", epochs=1.0).model_dump())
    base = load_base("tiny", "fp32")
    manifest = open_bundle(bundle_folder(result.bundle), base_digest=base.digest, template_digest=base.template_digest)
    assert manifest.first_layer == 0 and not (home / "frozen").exists()


def test_without_dev_rows(home: Path, tiny: str) -> None:
    result = train(home, spec(dataset(rows(12), [])).model_dump())
    assert result.dev_loss is None and result.dev_curve == ()


def test_a_time_limit_seals_what_is_there(home: Path, card: str) -> None:
    result = train(home, spec(card, epochs=1e6, max_seconds=2.0).model_dump())
    assert result.stopped == "out_of_time" and 0 < result.steps and result.seconds < 4
    assert bundle_folder(result.bundle).is_dir()


def test_a_time_limit_below_the_first_step_is_an_error(home: Path, card: str) -> None:
    with pytest.raises(ResourceExhausted, match="before the first step"):
        train(home, spec(card, max_seconds=1e-6).model_dump())
    assert not (home / "adapters").exists()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"max_tokens": 20}, DataError, "train, row 1"),
        ({"method": "telepathy"}, NotFound, "Use one of alora, "),
        ({"learning_rate": 1e30, "max_grad_norm": 1e30}, DataError, "Lower the learning rate"),
        ({"dataset": "1" * 64}, NotFound, "artifact"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_place_and_remedy(
    home: Path, card: str, change: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        train(
            home,
            spec(card, **change).model_dump() if "dataset" not in change else {**spec(card).model_dump(), **change},
        )
    assert text in str(caught.value)


def test_a_changed_artifact_is_refused(home: Path, tiny: str) -> None:
    train_rows = rows(12)
    card = dataset(train_rows, [])
    split = artifacts.path(next(iter(_artifacts(card))))
    split.write_bytes(split.read_bytes().replace(b"parcel", b"parrot"))
    with pytest.raises(IntegrityError):
        train(home, spec(card).model_dump())


def _artifacts(card: str) -> list[str]:
    return [split["artifact"] for split in artifacts.get_json(card)["splits"].values() if split["artifact"]]
