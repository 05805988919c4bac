import json
from pathlib import Path

import pytest

from moatelier.errors import Cancelled, MoatelierError, ModelUnavailable
from moatelier.job import Job
from training import probe


def test_a_base_is_measured_once(home: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 0.1)
    measured = probe.work({"base": tiny}, Job(home / "jobs" / "probe", quiet=True))
    assert measured.keys() == {"train_tokens_per_s", "frozen_tokens_per_s", "generate_tokens_per_s", "precision"}
    assert all(value > 0 for name, value in measured.items() if name != "precision")
    assert json.loads(probe.probe_file(tiny).read_text()) == measured
    monkeypatch.setattr(probe, "load_base", None)
    assert probe.work({"base": tiny}, Job(home / "jobs" / "again", quiet=True)) == measured


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
