"""The gate with the tiny model: one look, written down first; one decision, signed once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from evals import answers, gate, recompute, vault
from evals.statistics import CLAIM_ALPHA, LOOKS, required_correct
from moatelier.contracts import GateDecision, GateSpec, Goal, SplitInfo
from moatelier.contracts.suites import Conditions
from moatelier.errors import Cancelled, IntegrityError, InvalidRequest, LooksExhausted, NotFound
from moatelier.job import Job, write_atomically
from modalities.bundle import WEIGHTS, bundle_folder
from modalities.text import data
from serving.engine import TextEngine
from store import artifacts, audit, looks, records
from tests.evals.conftest import Curated, Train


def spec(curated: Curated, candidate: str, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "project": "default",
        "task": "task-1",
        "dataset": curated.digest,
        "base": "tiny",
        "candidate": candidate,
        "champion": None,
        "goal": Goal(metric="accuracy", target=0.0),
    }
    return GateSpec(**fields | changes).model_dump(mode="json")


def decide(folder: Path, fields: dict[str, Any]) -> GateDecision:
    return GateDecision.model_validate(gate.work(fields, Job(folder, quiet=True)))


def test_base_and_candidate_answer_all_locked_rows(curated: Curated, train: Train, tmp_path: Path) -> None:
    candidate = train()
    decision = decide(tmp_path / "gate", spec(curated, candidate))
    assert decision.candidate_report.subject == candidate and decision.base_report.subject == "base"
    assert decision.candidate_report.split == "test"
    assert decision.candidate_report.rows == decision.base_report.rows == 80
    assert decision.candidate_report.predictions is None
    assert (decision.look, decision.looks_allowed, decision.alpha) == (1, LOOKS, CLAIM_ALPHA)
    assert decision.locked == curated.card.locked
    assert decision.against_base.other == "base"
    assert decision.reached and decision.promoted
    record = records.get("default", "gate_decision", "task-1")
    assert record.subject == candidate
    assert GateDecision.model_validate(record.body) == decision
    assert not (tmp_path / "gate" / "answers").exists()


def test_a_goal_out_of_reach_says_by_how_much(curated: Curated, train: Train, tmp_path: Path) -> None:
    goal = Goal(metric="accuracy", target=0.9)
    decision = decide(tmp_path / "gate", spec(curated, train(), goal=goal))
    assert not decision.reached and not decision.promoted
    assert "The goal is not reached." in decision.reason
    assert f"{required_correct(80, 0.9)} have to be" in decision.reason


def test_a_champion_answers_the_same_rows(curated: Curated, train: Train, tmp_path: Path) -> None:
    candidate, champion = train(), train(seed=1, learning_rate=1e-2)
    decision = decide(tmp_path / "gate", spec(curated, candidate, champion=champion))
    assert decision.champion_report is not None and decision.against_champion is not None
    assert decision.champion_report.subject == decision.against_champion.other == champion
    assert decision.champion_report.rows == 80


def test_a_champion_is_compared_only_on_rows_it_was_not_made_with(
    curated: Curated, train: Train, tmp_path: Path
) -> None:
    """A file that grew since moves rows between splits; what the champion has learnt by heart shows nothing."""

    def champion_of(rows: list[data.Row]) -> str:
        held = SplitInfo(rows=len(rows), artifact=artifacts.put_bytes(data.write_rows(rows)))
        card = curated.card.model_copy(update={"splits": curated.card.splits | {"train": held}})
        return train(dataset=artifacts.put_json(card), seed=len(rows))

    candidate, some = train(), champion_of(curated.locked[:30])
    decision = decide(tmp_path / "some", spec(curated, candidate, champion=some))
    assert decision.champion_report is not None and decision.champion_report.rows == 50
    assert decision.candidate_report.rows == 80 and decision.against_champion is not None
    everything = champion_of(curated.locked)
    decision = decide(tmp_path / "all", spec(curated, candidate, champion=everything, task="task-2"))
    assert decision.champion == everything and decision.champion_report is decision.against_champion is None
    assert decision.promoted and "made with all of the locked rows" in decision.reason


def test_a_champion_that_cannot_be_loaded_blocks_nobody(curated: Curated, train: Train, tmp_path: Path) -> None:
    candidate, champion = train(), train(seed=1, learning_rate=1e-2)
    weights = bundle_folder(champion) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    decision = decide(tmp_path / "gate", spec(curated, candidate, champion=champion))
    assert decision.champion == champion and decision.champion_report is decision.against_champion is None
    assert decision.promoted and "the champion cannot be loaded any more" in decision.reason
    assert WEIGHTS in decision.reason


def test_the_champion_itself_is_promoted_again(curated: Curated, train: Train, tmp_path: Path) -> None:
    candidate = train()
    decision = decide(tmp_path / "gate", spec(curated, candidate, champion=candidate))
    assert decision.promoted and decision.champion_report == decision.candidate_report


def test_the_look_is_written_down_before_the_rows_are_read(
    curated: Curated, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, open_locked = [], vault.open_locked

    def watched(locked: str) -> bytes:
        opened.append(looks.looks_taken("default", locked))
        return open_locked(locked)

    monkeypatch.setattr(vault, "open_locked", watched)
    decide(tmp_path / "gate", spec(curated, train()))
    assert opened == [1]


def test_a_second_gate_of_the_task_returns_the_first_decision(
    curated: Curated, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = spec(curated, train())
    first = decide(tmp_path / "gate", fields)
    monkeypatch.delattr(TextEngine, "__init__")  # no model is needed any more
    assert decide(tmp_path / "other", fields) == first
    assert looks.looks_taken("default", curated.card.locked) == 1


def test_a_stopped_gate_goes_on_with_its_look_and_its_answers(
    curated: Curated, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = train()
    undisturbed = decide(tmp_path / "undisturbed", spec(curated, candidate, task="task-0"))
    job, fields = Job(tmp_path / "gate", quiet=True), spec(curated, candidate)
    job.stop_reason = "SIGTERM"
    with pytest.raises(Cancelled):
        gate.work(fields, job)
    kept = list((tmp_path / "gate" / "answers").iterdir())
    assert len(kept) == 1 and looks.looks_taken("default", curated.card.locked) == 2
    times = kept[0].stat().st_mtime_ns
    monkeypatch.setattr(gate.shutil, "rmtree", lambda *_, **__: None)
    decision = decide(tmp_path / "gate", fields)
    assert kept[0].stat().st_mtime_ns == times
    assert decision.look == 2
    assert decision.candidate_report.metrics == undisturbed.candidate_report.metrics
    assert looks.looks_taken("default", curated.card.locked) == 2
    audit.verify()


def test_more_looks_than_the_bounds_allow_are_refused(
    curated: Curated, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = train()
    for number in range(LOOKS):
        looks.take_look("default", curated.card.locked, f"earlier-{number}", candidate, allowed=LOOKS)
    monkeypatch.setattr(vault, "open_locked", lambda _: pytest.fail("the rows were read"))
    with pytest.raises(LooksExhausted):
        decide(tmp_path / "gate", spec(curated, candidate))


def test_no_look_is_spent_on_what_cannot_be_decided(curated: Curated, train: Train, tmp_path: Path) -> None:
    candidate = train()
    with pytest.raises(NotFound, match="bundle"):
        decide(tmp_path / "a", spec(curated, "0" * 64))
    with pytest.raises(InvalidRequest, match="tuned on tiny"):
        decide(tmp_path / "b", spec(curated, candidate, base="other"))
    chat = artifacts.put_json(curated.card.model_copy(update={"kind": "chat"}))
    with pytest.raises(InvalidRequest, match="macro_f1"):
        decide(tmp_path / "d", spec(curated, candidate, dataset=chat, goal=Goal(metric="macro_f1", target=0.5)))
    elsewhere = artifacts.put_json(curated.card.model_copy(update={"locked": "1" * 64}))
    with pytest.raises(NotFound, match="not in the vault"):
        decide(tmp_path / "e", spec(curated, candidate, dataset=elsewhere))
    assert looks.looks_taken("default", "1" * 64) == 0
    weights = bundle_folder(candidate) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError, match="adapter_model.safetensors"):
        decide(tmp_path / "c", spec(curated, candidate))
    assert looks.looks_taken("default", curated.card.locked) == 0


def test_a_decision_can_be_made_again_from_the_store(curated: Curated, train: Train, tmp_path: Path) -> None:
    candidate, champion = train(), train(seed=1, learning_rate=1e-2)
    wanted = Conditions(size_mb=1000, latency_ratio=1000)
    decision = decide(tmp_path / "gate", spec(curated, candidate, champion=champion, conditions=wanted))
    assert [each.name for each in decision.conditions] == ["retention", "safety", "latency", "size"]
    told = recompute.recompute("default", "task-1")
    assert told["same"] and told["fields"] == [] and told["evidence"] == decision.evidence
    assert recompute.main(["--task", "task-1", "--project", "default"]) == 0
    assert decision.evidence is not None
    path = vault._place(decision.evidence).parent / "evidence" / f"{decision.evidence}.json"
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    path.write_bytes(path.read_bytes().replace(b'"look":1', b'"look":2'))
    with pytest.raises(IntegrityError, match="evidence"):
        recompute.recompute("default", "task-1")
    path.unlink()
    with pytest.raises(NotFound):
        recompute.recompute("default", "task-1")
    assert recompute.main(["--task", "task-1", "--project", "default"]) == 2


def test_a_record_that_says_other_than_its_evidence_is_found_out(
    curated: Curated, train: Train, tmp_path: Path
) -> None:
    decision = decide(tmp_path / "gate", spec(curated, train()))
    lie = decision.model_copy(update={"reason": "Because I say so.", "promoted": True, "task": "task-1"})
    records.sign("default", "gate_decision", decision.candidate, "task-9", lie)
    with pytest.raises(IntegrityError, match="another decision"):
        recompute.recompute("default", "task-9")


def test_what_needs_no_look_is_tried_before_the_look(
    curated: Curated, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = spec(curated, train(), conditions=Conditions(guard="nobody/model"))
    with pytest.raises(InvalidRequest, match="guard"):
        decide(tmp_path / "gate", fields)
    assert looks.looks_taken("default", curated.card.locked) == 0


def test_progress_of_all_subjects_has_unique_steps(
    curated: Curated, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, dict[str, Any]]] = []
    monkeypatch.setattr(Job, "emit", lambda self, kind, step=0, **body: told.append((step, body)))
    monkeypatch.setattr(answers, "CHUNK_ROWS", 40)
    candidate = train()
    told.clear()
    decide(tmp_path / "gate", spec(curated, candidate))
    assert [step for step, _ in told] == [40, 80, 120, 160]
    assert [body["subject"] for _, body in told] == ["base", "base", candidate, candidate]
    assert {body["phase"] for _, body in told} == {"gate"}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["gate.before_look", "gate.after_look", "gate.before_sign"])
def test_a_gate_killed_anywhere_decides_once(
    curated: Curated, train: Train, home: Path, tmp_path: Path, fault: str
) -> None:
    (tmp_path / "job").mkdir()
    fields = spec(curated, train())
    write_atomically(tmp_path / "job" / "spec.json", GateSpec.model_validate(fields).model_dump_json().encode())
    command = [sys.executable, "-m", "evals.gate", "--spec", str(tmp_path / "job" / "spec.json"), "--quiet"]
    command += ["--folder", str(tmp_path / "job")]
    process = subprocess.Popen(command, env=os.environ | {"MOATELIER_FAULT": fault})
    marker = home / "faults" / fault
    for _ in range(600):
        if marker.exists() and marker.read_text():
            break
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "job" / "result.json").exists()
    subprocess.run(command, env=os.environ | {"MOATELIER_FAULT": fault}, check=True, timeout=120)
    decision = GateDecision.model_validate_json((tmp_path / "job" / "result.json").read_bytes())
    assert decision.look == looks.looks_taken("default", curated.card.locked) == 1
    assert GateDecision.model_validate(records.get("default", "gate_decision", "task-1").body) == decision
    assert len(records.list_records("default", decision.candidate)) == 1
