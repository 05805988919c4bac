"""The gate: the only reader of the locked rows, and the end of a task.

    python -m evals.gate --spec spec.json

`spec.json` is a `GateSpec`; the result is a signed `GateDecision`. Base, champion and the one candidate answer the same
locked rows. The look is written down before the rows are read, under the task and candidate, so a gate that is killed
and starts again uses up no second one and, by the answers in its folder, repeats no more than a chunk of rows.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals import answers, vault
from evals.deciding import BASE, BLIND, GateEvidence, decided, evident
from evals.rows import EvalRow, read_rows
from evals.scorers import Answered, need_metric
from evals.statistics import LOOKS
from evals.tryout import tryout
from evals.verdict import NO_CHAMPION
from moatelier.contracts import DatasetCard, GateDecision, GateSpec
from moatelier.errors import IntegrityError, InvalidRequest, ModelUnavailable, NotFound
from moatelier.faults import fault_point
from moatelier.ids import canonical_json
from moatelier.job import Job, main
from modalities.bundle import bundle_folder, read_manifest
from modalities.imagetext.config import NAME as SHOWN
from serving.engines import Engine, open_engine
from store import artifacts, datasets, looks, records


@dataclass(frozen=True)
class Subject:
    """Who answers: a base by its catalogue id, or a bundle on it."""

    name: str
    base: str
    bundle: str | None
    blind: bool = False
    """Asked about pictures without seeing them."""


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
    subjects, engines, alone = _prepare(gate, card)
    tried = tryout(gate, engines[gate.base], job)  # before the look: what fails here must not cost one
    fault_point("gate.before_look")
    look = looks.take_look(gate.project, card.locked, gate.task, gate.candidate, allowed=LOOKS)
    fault_point("gate.after_look")
    rows = read_rows(vault.open_locked(card.locked))
    answered: dict[str, dict[str, Answered]] = {}
    took: dict[str, float] = {}
    for number, subject in enumerate(subjects):
        asked = _unseen(subject, rows) if subject.name == gate.champion != gate.candidate else rows
        if not asked:
            alone = "the champion was made with all of the locked rows"
            continue
        started, before = time.monotonic(), number * len(rows)
        given = answers.answer(
            engines[subject.base],
            card,
            asked,
            adapter=subject.bundle,
            folder=_answers_folder(job),
            progress=answers.tell(job, "gate", subject.name, len(rows), before),
            whole=rows,
            blind=subject.blind,
        )
        took[subject.name] = time.monotonic() - started
        answered[subject.name] = dict(zip((row.id for row in asked), given, strict=True))
    evidence = GateEvidence(gate=gate, look=look, answered=evident(answered), seconds=took, alone=alone, **vars(tried))
    vault.keep(canonical_json(evidence.model_dump(mode="json")), evidence.digest)
    decision = decided(evidence, card)
    fault_point("gate.before_sign")
    return decision


def _prepare(gate: GateSpec, card: DatasetCard) -> tuple[list[Subject], dict[str, Engine], str]:
    """Load and check everything that could fail, so that no look is spent on a failure.

    A champion that cannot be loaded any more is left out with the reason: it must not block its successors for ever.
    """
    need_metric(card.kind, gate.goal.metric)
    vault.need(card.locked)
    if (base := read_manifest(bundle_folder(gate.candidate)).base) != gate.base:
        raise InvalidRequest(
            f"The candidate is tuned on {base}, not on {gate.base}.",
            where=gate.candidate,
            remedy="Gate it against its own base.",
        )
    engines: dict[str, Engine] = {}
    subjects, alone = [], NO_CHAMPION
    for digest in dict.fromkeys((None, gate.candidate, gate.champion)):
        try:
            if digest and digest != gate.candidate and (told := _of_other_data(digest, card)):
                alone = f"the champion is for {told}, which these rows are not"
                continue
            subjects.append(_load(gate, digest, engines, card.modality))
        except (IntegrityError, NotFound, ModelUnavailable) as error:
            if digest is None or digest == gate.candidate:
                raise
            alone = f"the champion cannot be loaded any more ({error.what})"
    if card.modality == SHOWN:
        subjects.append(Subject(BLIND, gate.base, gate.candidate, blind=True))
    return subjects, engines, alone


def _of_other_data(champion: str, card: DatasetCard) -> str:
    """What a champion is for, if a task of the same name was on other data before: it cannot be asked about these."""
    told = read_manifest(bundle_folder(champion))
    alike = (told.modality, told.kind) == (card.modality, card.kind)
    return "" if alike else f"{told.kind} of {told.modality}"


def _load(gate: GateSpec, digest: str | None, engines: dict[str, Engine], modality: str) -> Subject:
    """Load the base (None), the candidate or the champion, which may stand on another base."""
    base = gate.base if digest is None else read_manifest(bundle_folder(digest)).base
    if base not in engines:
        engines[base] = open_engine(base, modality)
    answers.load_subject(engines[base], digest)
    return Subject(digest or BASE, base, digest)


def _unseen(champion: Subject, rows: list[EvalRow]) -> list[EvalRow]:
    """The rows that a champion was not made with: a file that grew since may have moved rows between its splits."""
    assert champion.bundle is not None
    try:
        card = datasets.get_card(read_manifest(bundle_folder(champion.bundle)).dataset)
    except NotFound:
        return rows
    held = [artifacts.get_bytes(split.artifact) for split in card.splits.values() if split.artifact]
    seen = {row.id for split in held for row in read_rows(split)}
    return [row for row in rows if row.id not in seen]


def _answers_folder(job: Job) -> Path:
    return job.folder / "answers"


if __name__ == "__main__":
    main("evals.gate", work)
