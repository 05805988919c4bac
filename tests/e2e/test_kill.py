"""What CI runs of the kill matrix: each kind of task dies once at every stage (the whole: `make kill-matrix`)."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from graphs.processes import MODULES
from tests.e2e import recipe_kills
from tests.e2e.kill_matrix import AWAITING, STAGES, VICTIMS, Outcome, difference, run_task, stages_of
from tests.e2e.kinds import KINDS

ROOT = Path(__file__).resolve().parents[2]
# Each stage once, each victim at least twice; the training process dies at every stage that is its own.
MIXED = {
    "planning": "worker",
    "probing, its job enqueued": "api",
    "probing, the pace measured": "job",
    AWAITING: "supervisor",
    "curating": "api",
    "queued": "engine",
    "before the first checkpoint": "job",
    "between two checkpoints": "worker",
    "inside a checkpoint's write": "job",
    "sealing": "supervisor",
    "evaluating": "job",
    "gating, before the look": "api",
    "gating, after the look": "job",
    "gating, before the signature": "worker",
    "registering": "worker",
    "routing, its job enqueued": "supervisor",
    "routing, its job running": "job",
    "routing, profile and card written": "worker",
    "routing, before it joins": "api",
    "routing, after it joined": "worker",
    "answering": "engine",
}
# What differs from text: the jobs that ask a base of the modality, and its own objective and engine. A job whose
# supervisor died lives for some seconds, in which it may come by a place that is near and wait there: not it dies there.
MIXED_OF = {
    "text": MIXED,
    "pictures": MIXED
    | {
        "probing, its job enqueued": "worker",
        "doubting, its job enqueued": "worker",
        "doubting, the base has answered": "job",
        "before the first checkpoint": "worker",
        "between two checkpoints": "job",
    },
    "recordings": MIXED
    | {
        "planning": "job",
        "doubting, its job enqueued": "api",
        "doubting, the base has answered": "supervisor",
        "between two checkpoints": "supervisor",
        "sealing": "job",
        "gating, before the signature": "job",
    },
}
MIXED_RECIPE = {
    "queued": "supervisor",
    "its job enqueued": "worker",
    "before the look": "engine",
    "after the look": "job",
    "some questions answered": "engine",
    "signed, before it stands": "api",
    "candidates queued": "engine",
    "candidates, the job enqueued": "supervisor",
    "candidates, some questions answered": "job",
    "candidates, the file kept": "worker",
}
OUTCOME = Outcome(
    status="reached",
    adapters=("a" * 64,),
    aliases=("support-intent",),
    gate_decisions=1,
    looks=1,
    entries=('{"joined": true}',),
    cards=1,
    models=("auto", "support-intent"),
    events=Counter(["one", "two"]),
)


def test_every_stage_has_its_place_in_the_code_and_its_victim() -> None:
    sources = [path for folder in ("graphs", "training", "evals", "modalities", "serving") for path in _modules(folder)]
    found = [name for path in sources for name in re.findall(r"fault_point\(f?(.*)\)", path.read_text())]
    places = {place for name in found for place in re.findall(r'"([^"]+)"', name)}
    places |= {re.sub("{kind}|{phase}", kind, place) for place in places if "{" in place for kind in MODULES}
    for stages in (STAGES, recipe_kills.STAGES):
        assert set(stages.values()) - {""} <= places
        assert len(set(stages.values())) == len(stages), "a place serves one stage: nobody waits at it twice"
    samples = {kind: stages_of(kind) for kind in KINDS}
    assert MIXED_OF.keys() == samples.keys()
    for mixed, had in [*((MIXED_OF[kind], samples[kind]) for kind in KINDS), (MIXED_RECIPE, recipe_kills.STAGES)]:
        assert set(mixed) == set(had) and set(mixed.values()) == set(VICTIMS)


def test_a_stage_that_a_kind_of_task_lacks_is_named_with_a_reason() -> None:
    lacking = {kind: set(told.without) for kind, told in KINDS.items()}
    assert all(stages <= STAGES.keys() for stages in lacking.values())
    assert not lacking["pictures"] and not lacking["recordings"]
    assert all(why for told in KINDS.values() for why in told.without.values())


def _modules(folder: str) -> list[Path]:
    return list((ROOT / folder).rglob("*.py"))


def test_whatever_differs_is_told() -> None:
    assert difference(OUTCOME, OUTCOME) == ""
    for change, told in (
        ({"status": "failed"}, "status: failed instead of reached"),
        ({"entries": ()}, "entries: ()"),
        ({"entries": (*OUTCOME.entries, json.dumps({"joined": False}))}, "instead of"),
        ({"cards": 2}, "cards: 2 instead of 1"),
        ({"models": ("support-intent",)}, "models: ('support-intent',)"),
        ({"events": Counter(["one"])}, "missing event two"),
        ({"events": Counter(["one", "two", "two"])}, "surplus event two"),
    ):
        assert told in difference(OUTCOME, replace(OUTCOME, **change))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_kills_at_every_stage_change_nothing(kind: str, tmp_path: Path) -> None:
    undisturbed = run_task(kind, tmp_path / "undisturbed", [])
    assert undisturbed.gate_decisions == undisturbed.looks == len(undisturbed.adapters) == undisturbed.cards == 1
    [entry] = undisturbed.entries
    assert json.loads(entry)["joined"] and "auto" in undisturbed.models
    assert not difference(undisturbed, run_task(kind, tmp_path / "killed", MIXED_OF[kind].items()))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_at_every_stage_of_a_recipes_proof_change_nothing(tmp_path: Path) -> None:
    """The engine too: it is who is asked."""
    expected = recipe_kills.run_recipe(tmp_path / "undisturbed", [])
    assert expected.looks == len(expected.tables) == 2 and len(expected.files) == 1
    assert [json.loads(table)["looks"][0]["number"] for table in expected.tables] == [1, 2]
    assert not any(json.loads(table)["table"]["failed"] for table in expected.tables)
    assert not difference(expected, recipe_kills.run_recipe(tmp_path / "killed", MIXED_RECIPE.items()))
