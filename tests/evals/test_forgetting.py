"""Forgetting, really trained: an overfitted adapter is refused with the suite's evidence; replay brings it back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from evals import conditions
from evals.guards import LocalGuard
from evals.suite_run import run
from moatelier.contracts import EvalReport, TrainSpec
from moatelier.contracts.suites import Suite, SuiteResult
from moatelier.errors import InvalidRequest
from moatelier.job import Job
from moatelier.settings import settings
from modalities import pull
from modalities.bundle import bundle_folder
from serving.engine import TextEngine
from store import artifacts
from tests import fakes
from tests.evals.conftest import Curated
from training import run as training

WORDS = "parcel order card refund system user name category where has".split()
ANSWERS = "please broken come cancel my".split()


def facts() -> dict[str, str]:
    """What the base knows: an answer to every two words."""
    pairs = [f"{one} {other}" for one in WORDS for other in WORDS]
    return {pair: ANSWERS[number * 7 % len(ANSWERS)] for number, pair in enumerate(pairs)}


def abilities() -> Suite:
    """What it is asked for it, as a suite; the loss of the same words as texts."""
    known = facts()
    choices = [
        {"how": "choice", "ask": ask, "right": right, "wrong": [other for other in ANSWERS if other != right]}
        for ask, right in known.items()
    ]
    groups = [{"axis": "facts", "items": choices}]
    return Suite.model_validate(
        {"name": "facts", "kind": "retention", "about": "x", "licence": "Apache-2.0", "groups": groups}
    )


@pytest.fixture
def knowing(curated: Curated, home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    turns = [
        [{"role": "user", "content": ask}, {"role": "assistant", "content": told}] for ask, told in facts().items()
    ]
    folder = fakes.taught_llama(tmp_path / "knowing", tiny_folder, turns, steps=500)
    entry = {"id": "knowing", "sources": [{"type": "path", "path": str(folder)}]}
    file = fakes.tiny_catalogue(home / "two.yaml", tiny_folder, None, entry)
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(file))
    settings.cache_clear()
    pull.pull("knowing")
    return "knowing"


Tried = Callable[..., SuiteResult]


@pytest.fixture
def tried(curated: Curated, knowing: str, tmp_path: Path) -> Tried:
    """Trains an adapter, or takes the base, and tries it on the suite."""

    def on(**changes: object) -> SuiteResult:
        engine, bundle = TextEngine(knowing), None
        if changes:
            fields = {
                "method": "lora",
                "base": knowing,
                "dataset": curated.digest,
                "suffix": "support",
                "rank": 8,
                "layers": "all",
                "precision": "fp32",
            }
            spec = TrainSpec.model_validate(fields | changes)
            job = Job(tmp_path / f"train-{spec.digest[:8]}", quiet=True)
            bundle = str(training.work(spec.model_dump(mode="json"), job)["bundle"])
            engine.load_adapter(bundle, bundle_folder(bundle))
        job = Job(tmp_path / f"suite-{bundle or 'base'}"[:40], quiet=True)
        return run(engine, abilities(), adapter=bundle, guard=LocalGuard(), job=job)

    return on


def test_an_overfitted_adapter_is_refused_and_replay_brings_it_back(tried: Tried) -> None:
    base = tried()
    report = conditions.report(base)
    assert isinstance(report, EvalReport) and report.metrics["accuracy"].point > 0.9, report
    overfitted = {"epochs": 20, "learning_rate": 3e-3, "batch_rows": 8}
    forgot = conditions.retention(base, tried(**overfitted))
    assert not forgot.held and "facts" in forgot.text and float(forgot.evidence["difference"]) < -0.2
    kept = conditions.retention(base, tried(**overfitted, replay=2.0))
    assert kept.held, kept.text


def test_replay_is_for_questions_and_answers_alone(curated: Curated, tmp_path: Path) -> None:
    pairs = artifacts.put_json(curated.card.model_copy(update={"kind": "preference"}))
    fields = {"method": "dpo", "base": "tiny", "dataset": pairs, "suffix": "x", "replay": 1.0}
    with pytest.raises(InvalidRequest, match="replayed"):
        training.work(fields, Job(tmp_path / "job", quiet=True))
