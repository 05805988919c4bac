import json
from pathlib import Path

import pytest

from agents.starts import STARTS
from moatelier.errors import Cancelled, InvalidRequest, MoatelierError, ModelUnavailable
from moatelier.job import Job
from moatelier.settings import settings
from tests.modalities.vision.conftest import Pulled, pulled
from tests.modalities.vision.towers import timm_folder
from tests.sentences import tiny_embedding
from tests.training.spoken import pull_ears
from training import methods, probe, tryout

__all__ = ["pulled"]


def test_a_base_is_measured_once(home: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 0.1)
    measured = probe.work({"base": tiny}, Job(home / "jobs" / "probe", quiet=True))
    told = {"train_rows_per_s", "frozen_rows_per_s", "dev_rows_per_s", "start_seconds", "peak_bytes", "precision"}
    assert told <= measured.keys() and measured["steps"] == tryout.STEPS
    assert all(value > 0 for name, value in measured.items() if name != "precision")
    assert json.loads(probe.probe_file(tiny).read_text()) == measured
    monkeypatch.setattr(probe, "load_base", None)
    assert probe.work({"base": tiny}, Job(home / "jobs" / "again", quiet=True)) == measured


@pytest.mark.parametrize("method", [name for name in methods.names("text") if name in STARTS])
def test_every_method_that_a_plan_may_name_is_tried(home: Path, tiny: str, method: str) -> None:
    usual = STARTS[method]
    told = {"method": method, "layers": usual.layers, "rank": usual.rank, "alpha": usual.alpha, "batch_rows": 4}
    measured = probe.work({"base": tiny, **told}, Job(home / "jobs" / "probe", quiet=True))
    assert measured["steps"] > 0 and measured["train_rows_per_s"] > 0


def test_nobody_waits_in_its_steps_for_a_kill_that_is_meant_for_a_training(
    home: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOATELIER_FAULT", "train.before_first_checkpoint,train.between_checkpoints,checkpoint.inside")
    settings.cache_clear()
    assert probe.work({"base": tiny}, Job(home / "jobs" / "probe", quiet=True))["steps"] == tryout.STEPS
    assert not (settings().home / "faults").exists()


def test_figures_are_told_before_they_are_kept(home: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that is killed in between measures and tells again; one that finds them kept says nothing."""

    def killed(place: str) -> None:
        raise KeyboardInterrupt(place)

    monkeypatch.setattr(probe, "_SECONDS", 0.1)
    monkeypatch.setattr(probe, "fault_point", killed)
    with pytest.raises(KeyboardInterrupt, match="measured"):
        probe.work({"base": tiny}, Job(home / "jobs" / "probe", quiet=True))
    [line] = (home / "jobs" / "probe" / "events.jsonl").read_text().splitlines()
    assert json.loads(line)["kind"] == "probe" and not probe.probe_file(tiny).exists()


def test_a_base_that_is_not_pulled_is_an_error(home: Path) -> None:
    with pytest.raises(MoatelierError) as caught:
        probe.work({"base": "smollm2-135m-instruct"}, Job(home / "jobs" / "probe", quiet=True))
    assert isinstance(caught.value, ModelUnavailable)


def test_a_probe_that_is_stopped_leaves_no_figures(home: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 0.1)
    job = Job(home / "jobs" / "probe", quiet=True)
    job.stop_reason = "SIGTERM"
    with pytest.raises(Cancelled):
        probe.work({"base": tiny}, job)
    assert not probe.probe_file(tiny).exists()


def test_image_models_are_measured_at_each_size(
    home: Path, pulled: Pulled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 0.1)
    base = pulled(eyes=(timm_folder(tmp_path / "eyes"), "vision", "hf_vision"))
    job = Job(home / "jobs" / "probe", quiet=True)
    own, large = probe.work({"base": base}, job), probe.work({"base": base, "size": 96}, job)
    assert (
        own.keys()
        == large.keys()
        == {
            "train_rows_per_s",
            "frozen_rows_per_s",
            "solve_seconds",
            "peak_bytes",
            "precision",
        }
    )
    assert own["train_rows_per_s"] > large["train_rows_per_s"] > 0
    assert probe.probe_file(base) != probe.probe_file(base, {"size": 96})
    with pytest.raises(InvalidRequest):
        probe.work({"base": base, "size": 4}, job)


@pytest.mark.parametrize("kind", ["transcription", "classification"])
def test_models_of_speech_are_measured_in_the_window_that_they_will_hear(
    home: Path, pulled: Pulled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 0.1)
    base = pull_ears(pulled, tmp_path / "ears")
    spec = {"base": base, "window_s": 1.0, "kind": kind}
    measured = probe.work(spec, Job(home / "jobs" / "probe", quiet=True))
    assert measured["train_rows_per_s"] > 0 and measured["frozen_rows_per_s"] > 0


def test_pictures_and_captions_are_measured_with_their_words(
    home: Path, pulled: Pulled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 0.1)
    monkeypatch.setenv("MOATELIER_EMBEDDING", "words")
    folder = tiny_embedding(tmp_path / "w", "a small red thing")
    base = pulled(
        eyes=(timm_folder(tmp_path / "eyes"), "vision", "hf_vision"), words=(folder, "embedding", "hf_embedding")
    )
    spec = {"base": base, "kind": "retrieval"}
    measured = probe.work(spec, Job(home / "jobs" / "probe", quiet=True))
    assert measured.keys() == {"train_rows_per_s", "frozen_rows_per_s", "solve_seconds", "peak_bytes", "precision"}
    assert measured["train_rows_per_s"] > 0 and measured["frozen_rows_per_s"] > 0
    assert not probe.probe_file(base).exists() and probe.probe_file(base, {"kind": "retrieval"}).exists()
