"""Planted runs: a tiny model is really trained on data with one fault, and the evaluator names it; so it does nothing
on healthy ones: one seed each with what is done about it, and ten, of which at least nine have to be right."""

from pathlib import Path
from typing import get_args

import pytest

from agents.evaluator import diagnose
from agents.ladder import effect
from agents.trainer import Change, next_step
from moatelier.contracts import Diagnosis, Symptom
from moatelier.settings import settings
from modalities import pull
from tests import fakes
from tests.evals.plants import FIRST_ACTIONS, MENDED, PLANTS, World, looked, school


@pytest.fixture(scope="module")
def schooled(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """The tiny model after school."""
    return fakes.schooled_llama(tmp_path_factory.mktemp("schooled"), tiny_folder, school())


@pytest.fixture
def base(home: Path, schooled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory whose base has been to school."""
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(fakes.tiny_catalogue(home / "catalogue.yaml", schooled)))
    monkeypatch.setenv("MOATELIER_BASE", "tiny")
    settings.cache_clear()
    pull.pull("tiny")
    return home


def named(kind: Symptom, home: Path, seed: int) -> Diagnosis:
    trials, plan = PLANTS[kind](World(home, seed))
    return diagnose(trials, plan, looked(trials[-1]))


def test_every_diagnosis_has_a_plant() -> None:
    assert set(PLANTS) == set(get_args(Symptom)) == set(FIRST_ACTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(PLANTS))
def test_a_planted_fault_is_named_and_acted_upon(kind: Symptom, base: Path) -> None:
    trials, plan = PLANTS[kind](World(base, 0))
    seen = looked(trials[-1])
    diagnosis = diagnose(trials, plan, seen)
    first = diagnosis.findings[0]
    assert first.kind == kind, diagnosis
    assert first.ids and first.confidence > 0.5
    assert seen.card is not None
    step = next_step(plan, seen.card, trials, diagnosis, seconds_left=1e6, evidence=seen)
    action = step.action if isinstance(step, Change) else None
    assert action == FIRST_ACTIONS[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(PLANTS))
def test_a_planted_fault_is_named_in_nine_of_ten_seeds(kind: Symptom, base: Path) -> None:
    found = [named(kind, base, seed).findings[0].kind for seed in range(10)]
    assert found.count(kind) >= 9, found


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(MENDED))
def test_what_is_done_about_it_helps(kind: Symptom, base: Path) -> None:
    """The action is carried out: the next trial is really trained, and its effect is measured."""
    world = World(base, 0)
    trials, plan = PLANTS[kind](world)
    seen = looked(trials[-1])
    assert seen.card is not None
    step = next_step(plan, seen.card, trials, diagnose(trials, plan, seen), seconds_left=1e6, evidence=seen)
    assert isinstance(step, Change)
    brought = effect([*trials, world.again(step.spec)], plan, kind)
    assert brought.after > brought.before and brought.credit > 0.9
