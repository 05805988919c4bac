"""Training of audio adapters: the same loop, checkpoints and bits as text."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moatelier.contracts import DatasetCard, TrainResult, TrainSpec
from moatelier.errors import Cancelled, DataError, InvalidRequest, NotFound, ResourceExhausted
from moatelier.job import Job
from moatelier.settings import settings
from modalities.audio import data
from modalities.audio.model import load_base
from modalities.audio.rows import AudioRow
from modalities.bundle import CONFIG, bundle_folder, open_bundle
from store import artifacts
from tests.modalities.vision.conftest import Pulled, pulled
from tests.sounding import sound_bytes, speech, tone
from tests.training.spoken import LABELS, card, pull_ears, rows, spec
from tests.training.test_kill import Training, outcome
from tests.training.test_run import StopAt
from training.audio import AudioObjective
from training.run import work

__all__ = ["pulled"]
KINDS = ["transcription", "classification"]


@pytest.fixture
def base(pulled: Pulled, tmp_path: Path) -> str:
    return pull_ears(pulled, tmp_path / "ears")


def train(home: Path, wanted: TrainSpec, name: str = "job") -> TrainResult:
    return TrainResult.model_validate(work(wanted.model_dump(), Job(home / "jobs" / name, quiet=True)))


@contextmanager
def objective(home: Path, wanted: TrainSpec, made: list[AudioRow]) -> Iterator[AudioObjective]:
    told = DatasetCard.model_validate(artifacts.get_json(card(made, [])))
    base, job = load_base("ears", "fp32"), Job(home / "jobs" / "alone", quiet=True)
    with closing(AudioObjective(wanted, base, told, made, job)) as prepared, torch.no_grad():
        yield prepared


def lost(home: Path, wanted: TrainSpec, made: list[AudioRow]) -> float:
    """The loss of all rows before any step."""
    with objective(home, wanted, made) as prepared:
        prepared.model.eval()
        return float(prepared.loss(range(len(made))))


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_seals_a_bundle_that_opens(home: Path, base: str, kind: str) -> None:
    made = card(rows(24), rows(9, start=24), kind)
    result = train(home, spec(made, epochs=6.0))
    assert result.steps == 24 and result.train_loss < 0.9 * result.curve[0][1]
    assert result.dev_loss is not None and result.dev_loss < result.curve[0][1]
    windowed = load_base(base).with_window(1.0)
    folder = bundle_folder(result.bundle)
    manifest = open_bundle(folder, base_digest=windowed.digest, template_digest=windowed.template_digest)
    assert (manifest.modality, manifest.kind, manifest.first_layer) == ("audio", kind, 0)
    assert manifest.labels == (LABELS if kind == "classification" else ())
    told = json.loads((folder / CONFIG).read_bytes())
    assert told["window_s"] == 1.0 and "language" not in told
    assert told["place"] == ("encoder" if kind == "classification" else "both")
    assert told["peft_type"] == "LORA" and told["base_model_name_or_path"] == base


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", [{"layers": "top_third"}, {"dropout": 0.1}, {"augment": True}])
def test_a_stopped_training_goes_on_to_the_same_bits(home: Path, base: str, kind: str, changes: dict[str, Any]) -> None:
    wanted = spec(card(rows(12), rows(3, start=12), kind), **changes)
    undisturbed = train(home, wanted, "undisturbed")
    with pytest.raises(Cancelled):
        work(wanted.model_dump(), StopAt(home / "jobs" / "stopped", "progress", 3))
    resumed = train(home, wanted, "stopped")
    assert resumed.bundle == undisturbed.bundle and resumed.curve == undisturbed.curve


@pytest.mark.slow
@pytest.mark.parametrize("point", ["train.start", "train.between_checkpoints", "checkpoint.inside", "train.sealing"])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_point_it_ends_with_the_same_bits(home: Path, base: str, kind: str, point: str) -> None:
    made = card(rows(12), rows(3, start=12), kind)
    changes = spec(made, layers="top_third").model_dump(exclude={"dataset", "dropout"})
    result = Training(home, made, "undisturbed", **changes).finish()
    (home / "adapters" / result["bundle"]).rename(home / "kept")
    killed = Training(home, made, **changes)
    killed.kill_at(point)
    assert outcome(killed.finish()) == outcome(result)


@pytest.mark.parametrize(
    ("changes", "first"),
    [({"layers": "top_third"}, 1), ({"place": "decoder"}, 2), ({"place": "encoder"}, 0), ({"layers": "all"}, 0)],
)
def test_what_is_frozen_runs_once_and_cached_or_not_the_loss_is_the_same(
    home: Path, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], first: int
) -> None:
    made = [*rows(5), *rows(2)]
    wanted = spec("0" * 64, **changes)
    with objective(home, wanted, made) as kept:
        assert kept.manifest()["first_layer"] == first
        assert len(list((home / "frozen").glob("*/filled"))) == (first > 0)
        found = float(kept.loss(range(7)))
        assert found == pytest.approx(sum(float(kept.loss([row])) for row in range(7)), rel=1e-5)
    monkeypatch.setenv("MOATELIER_FROZEN_CACHE_GB", "0")
    settings.cache_clear()
    for left in (home / "frozen").glob("*"):
        left.rename(tmp_path / left.name)
    assert lost(home, wanted, made) == pytest.approx(found, rel=1e-5)
    assert not list((home / "frozen").glob("*/filled"))


def test_from_any_boundary_the_loss_is_that_of_the_whole_model(home: Path, base: str) -> None:
    made = rows(4)
    ways: list[dict[str, Any]] = [{"layers": "all"}, {"layers": "top_third"}, {"place": "decoder"}]
    losses = [lost(home, spec("0" * 64, **changes), made) for changes in ways]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_varied_recordings_are_heard_in_training_only(home: Path, base: str) -> None:
    made = [*rows(4), *rows(2, start=4, seconds=0.94)]  # slower these would not fit
    wanted = spec("0" * 64, augment=True)
    assert lost(home, wanted, made) == lost(home, spec("0" * 64), made)
    with objective(home, wanted, made) as varied:
        torch.manual_seed(1)
        first, second = float(varied.loss(range(6))), float(varied.loss(range(6)))
        torch.manual_seed(1)
        assert float(varied.loss(range(6))) == first != second
    assert "augment" not in spec("0" * 64).model_dump() and wanted.model_dump()["augment"]


def test_a_model_of_many_languages_is_taught_in_the_one_it_hears(home: Path, pulled: Pulled, tmp_path: Path) -> None:
    base = pull_ears(pulled, tmp_path / "ears", 1, n_vocab=51865)
    result = train(home, spec(card(rows(6), []), epochs=1.0))
    told = json.loads((bundle_folder(result.bundle) / CONFIG).read_bytes())
    assert told["language"] in load_base(base).tokenizer.all_language_codes


def test_the_window_is_the_bases_own_where_none_is_given(home: Path, base: str) -> None:
    result = train(home, spec(card(rows(2), []), epochs=1.0, window_s=None, place="decoder"))
    whole = load_base(base)
    manifest = open_bundle(
        bundle_folder(result.bundle), base_digest=whole.digest, template_digest=whole.template_digest
    )
    assert manifest.first_layer == 2 and json.loads((bundle_folder(result.bundle) / CONFIG).read_bytes())["window_s"]


def odd_row(sound: np.ndarray, **fields: Any) -> AudioRow:
    audio = artifacts.put_bytes(sound_bytes(sound))
    return AudioRow(7, audio, audio, **({"text": "red", "label": "red"} | fields))


@pytest.mark.parametrize(
    ("kind", "odd", "changes", "error", "told"),
    [
        ("transcription", (tone(2.5), {}), {}, DataError, r"has 2\.5 s of speech, where 1 s fit. \(at row 7\)"),
        ("transcription", (np.zeros(9000, np.float32), {}), {}, DataError, "is silent"),
        ("transcription", (tone(0.5), {"text": "word " * 40}), {}, DataError, "more than anyone speaks"),
        ("transcription", (tone(0.5), {"text": None}), {}, DataError, "no transcript"),
        ("classification", (tone(0.5), {"label": "violet"}), {}, DataError, "'violet' is none"),
        ("classification", None, {"place": "both"}, InvalidRequest, "to tune both has no sense"),
        ("transcription", None, {"layers": "top_third", "augment": True}, InvalidRequest, "cannot be varied"),
        ("transcription", None, {"method": "lora"}, NotFound, "no method 'lora' to tune audio models"),
        ("transcription", None, {"max_seconds": 1e-6}, ResourceExhausted, "before the first step"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    home: Path, base: str, kind: str, odd: Any, changes: dict[str, Any], error: type[Exception], told: str
) -> None:
    made = [*rows(6), *([odd_row(odd[0], **odd[1])] if odd else [])]
    with pytest.raises(error) as caught:
        train(home, spec(card(made, [], kind), **changes))
    caught.match(told)
    assert not (home / "adapters").exists()


def test_a_damaged_recording_is_named(home: Path, base: str) -> None:
    audio = artifacts.put_bytes(sound_bytes(speech(0.5))[:2000])
    with pytest.raises(DataError, match="truncated"):
        train(home, spec(card([*rows(2), AudioRow(9, audio, audio, text="red")], [])))


def test_rows_come_back_from_their_json() -> None:
    row = AudioRow(3, "a" * 64, "b" * 64, text="red", speaker="theo", seconds=0.5)
    assert data.rows_of([json.loads(data.write_rows([row]))]) == [row]
