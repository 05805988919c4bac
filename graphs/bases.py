"""Measures the bases that a task could tune, and has the trainer's ranking choose; see `agents.bases`.

Only where there is a choice: models for texts that are served and on this machine. Nothing is pulled unasked.
"""

from dataclasses import replace
from typing import Any

from agents import bases, curator
from agents.bases import Candidate
from graphs import curation, evidence, forecasting
from graphs.nodes import decided, run_job
from graphs.state import LifecycleState
from moatelier.contracts import TaskPlan
from moatelier.errors import ResourceExhausted
from moatelier.settings import settings
from modalities import catalogue
from modalities.curating import Material
from modalities.text import data
from store import artifacts

MEASURED_ROWS = 64


def choose(state: LifecycleState, plan: TaskPlan, material: Material) -> tuple[TaskPlan, dict[str, Any]]:
    """The plan with its base, and `bases`, the table, with `weighed`, the numbers of the rows that it rests on.

    Raises:
        DataError: The rows make no dataset.
        Cancelled: The task was cancelled.
    """
    listed = {entry.id: entry for entry in catalogue.entries() if entry.kind == "text"}
    known = {base: _unfit(entry) for base, entry in listed.items()}
    own, open_ = settings().base, [base for base, why in known.items() if not why]
    if plan.modality.value != "text" or not open_ or (len(open_) == 1 and not known.get(own)):
        return plan, {}
    rows = _rows(state, plan, material)
    artifact = artifacts.put_bytes(data.write_rows(rows))
    found = [
        _measured(state, plan, material, entry, artifact) if base in open_ else _named(entry, known[base])
        for base, entry in listed.items()
    ]
    ranked = bases.rank(found, budget_s=plan.budget.value.seconds, room_bytes=forecasting.room_bytes({}))
    chosen = bases.choose(plan, ranked, own)
    table = [each.model_dump(mode="json") for each in ranked]
    decided(state, "trainer", {"base": chosen.base.value, "bases": table}, _reason(chosen))
    numbers = [row.number for row in rows] if material.test_rows is None else []
    return chosen, {"bases": table, "weighed": numbers}


def _reason(plan: TaskPlan) -> str:
    return next((note for note in plan.notes if note.startswith(bases.TABLE_NOTE)), plan.base.reason)


def _unfit(entry: catalogue.Entry, longest: int = 0) -> str:
    return bases.unfit(
        entry.licence,
        licences=settings().licences,
        served=entry.id in settings().text_bases,
        pulled=catalogue.is_pulled(entry.id),
        context=entry.context,
        longest=longest,
    )


def _named(entry: catalogue.Entry, refused: str) -> Candidate:
    return Candidate(
        base=entry.id,
        licence=entry.licence,
        parameters=entry.parameters,
        context=entry.context,
        refused=refused,
    )


def _measured(
    state: LifecycleState, plan: TaskPlan, material: Material, entry: catalogue.Entry, rows: str
) -> Candidate:
    """One base by its own tokens: a probe, then its score on the rows."""
    base = plan.base.model_copy(update={"value": entry.id})
    told = curation.probing(replace(material, plan=plan.model_copy(update={"base": base})))
    longest = told["lengths"]["longest"] if plan.too_long.value == "refuse" else 0
    if why := _unfit(entry, longest):
        return _named(entry, why)
    count, dev = evidence.rows_to_train_on(state, plan, 1.0)
    probed = {"base": entry.id, "digest": catalogue.base_digest(entry.id)} | told | forecasting.tried(plan, count)
    try:
        _, speed = run_job(state, "probe", probed)
        _, scored = run_job(state, "weigh", {"base": entry.id, "rows": rows, "seed": plan.seed})
    except ResourceExhausted as error:
        return _named(entry, error.what)
    takes = forecasting.forecast(count, dev, speed, told["lengths"], plan)
    figures = {"seconds": takes["seconds"], "peak_bytes": takes["needed_bytes"], **scored}
    return _named(entry, "").model_copy(update=figures)


def _rows(state: LifecycleState, plan: TaskPlan, material: Material) -> list[Any]:
    """Some rows that will be trained on: of the very split that the curator will make."""
    findings = curation.find(state, material)
    labels = {row.number: row.label for row in material.rows if row.label is not None}
    decision = curator.decide(findings, plan, material.test_rows is not None, labels)
    return curation.some(curation.divided(material, findings, decision)["train"], MEASURED_ROWS, plan.seed)
