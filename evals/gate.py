"""The gate: the only reader of the locked rows, and the end of a task.

    python -m evals.gate --spec spec.json

`spec.json` is a `GateSpec`; the result is a signed `GateDecision`. Base, champion and the one candidate answer the same
locked rows. The look is written down before the rows are read, under the task and candidate, so a gate that is killed
and starts again uses up no second one and, by the answers in its folder, repeats no more than a chunk of rows.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals import answers, vault
from evals.answers import EvalRow
from evals.run import BASE, report
from evals.scorers import Answered, compare, need_metric, score
from evals.statistics import CLAIM_ALPHA, LOOKS
from evals.verdict import judge
from moatelier.contracts import DatasetCard, EvalReport, GateDecision, GateSpec, PairedComparison
from moatelier.errors import InvalidRequest, NotFound
from moatelier.faults import fault_point
from moatelier.job import Job, main
from modalities.bundle import bundle_folder, read_manifest
from serving.engine import TextEngine
from store import datasets, looks, records


@dataclass(frozen=True)
class Subject:
    """Who answers: a base by its catalogue id, or a bundle on it."""

    name: str
    base: str
    bundle: str | None


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Decide as a `GateSpec` says and return the signed `GateDecision`.

    Raises:
        LooksExhausted: The locked rows have had all their looks.
        InvalidRequest: The goal's metric does not exist for these rows, or the candidate is not tuned on the base.
        NotFound: Dataset, bundle, base or locked rows are missing.
        IntegrityError: Rows or a bundle were changed.
        Cancelled: The job was asked to stop; the answers so far stay in its folder.
    """
    gate = GateSpec.model_validate(spec)
    if _signed(gate) is None:
        records.sign(gate.project, "gate_decision", gate.candidate, gate.task, _decide(gate, job))
    shutil.rmtree(_answers_folder(job), ignore_errors=True)  # answers to locked rows shall not lie about
    decision = _signed(gate)
    assert decision is not None
    return decision


def _signed(gate: GateSpec) -> dict[str, Any] | None:
    try:
        return records.get(gate.project, "gate_decision", gate.task).body
    except NotFound:
        return None


def _decide(gate: GateSpec, job: Job) -> GateDecision:
    card = datasets.get_card(gate.dataset)
    subjects = _subjects(gate)
    engines = _prepare(gate, card, subjects)
    fault_point("gate.before_look")
    look = looks.take_look(gate.project, card.locked, gate.task, gate.candidate, allowed=LOOKS)
    fault_point("gate.after_look")
    rows = answers.read_rows(vault.open_locked(card.locked))
    answered, reports = {}, {}
    for number, subject in enumerate(subjects):
        started = time.monotonic()
        before = number * len(rows)
        answered[subject.name] = _answer(engines[subject.base], subject, card, rows, job, before)
        scores = score(card.kind, card.labels, answered[subject.name], seed=gate.seed)
        seconds = time.monotonic() - started
        reports[subject.name] = report(card, subject.name, "test", scores, rows=len(rows), seconds=seconds)
    decision = decide(gate, card, look, answered, reports)
    fault_point("gate.before_sign")
    return decision


def _subjects(gate: GateSpec) -> list[Subject]:
    """Base, candidate, champion, each once; a champion may stand on another base."""
    subjects = [Subject(BASE, gate.base, None)]
    for digest in dict.fromkeys((gate.candidate, gate.champion)):
        if digest is not None:
            subjects.append(Subject(digest, read_manifest(bundle_folder(digest)).base, digest))
    if subjects[1].base != gate.base:
        raise InvalidRequest(
            f"The candidate is tuned on {subjects[1].base}, not on {gate.base}.",
            where=gate.candidate,
            remedy="Gate it against its own base.",
        )
    return subjects


def _prepare(gate: GateSpec, card: DatasetCard, subjects: list[Subject]) -> dict[str, TextEngine]:
    """Load and check everything that could fail, so that no look is spent on a failure."""
    need_metric(card.kind, gate.goal.metric)
    vault.need(card.locked)
    engines: dict[str, TextEngine] = {}
    for subject in subjects:
        if subject.base not in engines:
            engines[subject.base] = TextEngine(subject.base)
        answers.load_subject(engines[subject.base], subject.bundle)
    return engines


def _answer(
    engine: TextEngine, subject: Subject, card: DatasetCard, rows: list[EvalRow], job: Job, before: int
) -> list[Answered]:
    return answers.answer_all(
        engine,
        rows,
        adapter=subject.bundle,
        max_tokens=answers.answer_limit(engine, card.kind, card.labels, rows),
        folder=_answers_folder(job),
        progress=answers.tell(job, "gate", subject.name, len(rows), before),
    )


def _answers_folder(job: Job) -> Path:
    return job.folder / "answers"


def decide(
    gate: GateSpec,
    card: DatasetCard,
    look: int,
    answered: Mapping[str, list[Answered]],
    reports: Mapping[str, EvalReport],
) -> GateDecision:
    """The decision from everybody's answers: pure, so that simulations can run it.

    Args:
        gate: What is decided.
        card: The dataset.
        look: Which look at the locked rows this is.
        answered: Answers by subject (`base` and bundle digests), to the same rows in the same order.
        reports: Their reports.
    """

    def against(other: str) -> PairedComparison:
        ours, theirs = answered[gate.candidate], answered[other]
        return compare(gate.goal.metric, card.kind, card.labels, other, ours, theirs, seed=gate.seed)

    against_champion = None if gate.champion is None else against(gate.champion)
    verdict = judge(gate.goal, reports[gate.candidate], against_champion)
    return GateDecision(
        task=gate.task,
        candidate=gate.candidate,
        champion=gate.champion,
        locked=card.locked,
        look=look,
        looks_allowed=LOOKS,
        alpha=CLAIM_ALPHA,
        goal=gate.goal,
        candidate_report=reports[gate.candidate],
        base_report=reports[BASE],
        champion_report=None if gate.champion is None else reports[gate.champion],
        against_base=against(BASE),
        against_champion=against_champion,
        reached=verdict.reached,
        promoted=verdict.promoted,
        reason=verdict.reason,
    )


if __name__ == "__main__":
    main("evals.gate", work)
