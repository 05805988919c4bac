"""Carries out what the curator decides: reads the rows, reports on them, splits them, locks the test rows.

What differs by modality is its `modalities.curating.Curating`.
"""

import random
from collections import defaultdict
from collections.abc import Collection
from typing import Any

from evals import vault
from evals.statistics import LOOKS
from graphs.nodes import run_job
from graphs.state import LifecycleState
from moatelier.contracts import (
    AudioFindings,
    CurationDecision,
    DataFindings,
    DatasetCard,
    ImageFindings,
    SplitInfo,
    SplitName,
    TaskPlan,
)
from moatelier.errors import Cancelled
from modalities import registry
from modalities.curating import Curating, Material, Told
from modalities.halves import Half
from store import artifacts, datasets, looks, tasks

LOOK_UP = 50
"""Rows between two looks at whether the task was cancelled: media are decoded while they are read."""


def read(state: LifecycleState, plan: TaskPlan) -> Material:
    """The rows of the training file, and of the test file or the test within the training file.

    Raises:
        DataError: They cannot be used.
        Cancelled: The task was cancelled meanwhile.
    """

    def of(file_id: str, half: Half) -> list[Any]:
        file = datasets.get_file(state["project"], file_id)
        return _curating(plan).read(
            datasets.file_path(state["project"], file_id), file.name, plan, half, lambda done, _: _watch(state, done)
        )

    within = plan.test_file == plan.train_file
    rows = of(plan.train_file, "learn" if within else "all")
    return Material(plan, rows, of(plan.test_file, "test" if within else "all") if plan.test_file else None)


def _watch(state: LifecycleState, done: int) -> None:
    if done % LOOK_UP == 0 and tasks.find_task(state["task"]).cancel_requested:
        raise Cancelled("The task was cancelled.", where=state["task"])


def _curating(plan: TaskPlan) -> Curating:
    curating: Curating = registry.load(registry.get(plan.modality.value).curating)
    return curating


def check(material: Material) -> None:
    """Refuse rows that cannot make a dataset before a base is fetched for them. Raises DataError."""
    _curating(material.plan).check(material)


def needs(material: Material) -> tuple[str, ...]:
    """The models that must be there beside the base, once that is there."""
    return _curating(material.plan).needs(material)


def probing(material: Material) -> dict[str, Any]:
    """What the probe must know of these rows, once the base is there."""
    return _curating(material.plan).probing(material)


def preflight(material: Material) -> float:
    """How many rows are trained on for each row of the file; refuses those that nobody should be asked to approve.

    Raises:
        DataError: Which these are.
    """
    return _curating(material.plan).preflight(material)


def find(state: LifecycleState, material: Material) -> DataFindings:
    """Report everything the curator decides on; the base is asked where only it can tell."""
    part = _curating(material.plan)
    return part.find(material, _told(state, part.questions(material), 0))


def doubt(
    state: LifecycleState, material: Material, findings: DataFindings, decision: CurationDecision
) -> DataFindings:
    """The findings with doubtful labels, for which the rows that will be locked are neither used nor named."""
    part = _curating(material.plan)
    return part.doubt(material, findings, decision, _told(state, part.doubts(material, findings, decision), 1))


def _told(state: LifecycleState, asked: Told | None, attempt: int) -> Told | None:
    return run_job(state, "doubt", asked, attempt)[1] if asked is not None else None


def carry_out(
    state: LifecycleState,
    material: Material,
    findings: DataFindings,
    decision: CurationDecision,
    seen: Collection[int] = (),
) -> DatasetCard:
    """Split as decided, store the splits, lock the test rows, and write the card.

    Args:
        state: The task's.
        material: The rows.
        findings: On them.
        decision: The curator's.
        seen: Numbers of rows that something was chosen by before; they are not locked.

    Raises:
        LooksExhausted: These very rows have been locked before and had all their looks.
    """
    plan, part = material.plan, _curating(material.plan)
    data = registry.load(registry.get(plan.modality.value).data)
    splits = divided(material, findings, decision)
    splits["test"] = [row for row in splits["test"] if row.number not in seen]
    if plan.limits and plan.limits.rows:
        splits["train"] = some(splits["train"], plan.limits.rows, plan.seed)
    locked = data.locked_digest(splits["test"])
    looks.need_look(state["project"], locked, LOOKS)
    vault.lock(data.write_rows(splits["test"]), locked)
    infos: dict[SplitName, SplitInfo] = {}
    for name, split in splits.items():
        artifact = None if name == "test" else artifacts.put_bytes(data.write_rows(split))
        infos[name] = SplitInfo(rows=len(split), artifact=artifact, labels=_labels(split))
    card = DatasetCard(
        name=plan.name,
        source=datasets.get_file(state["project"], plan.train_file).sha256,
        test_source=datasets.get_file(state["project"], plan.test_file).sha256 if plan.test_file else None,
        licence=_licence(findings),
        modality=plan.modality.value,
        kind=plan.kind.value,
        columns=plan.columns.value,
        labels=tuple(sorted(findings.labels)),
        splits=infos,
        locked=locked,
        report=part.report(material, findings, decision, splits["train"]),
        **part.card_fields(material, findings),
    )
    datasets.add_card(state["project"], card, state["task"])
    return card


def divided(material: Material, findings: DataFindings, decision: CurationDecision) -> dict[SplitName, list[Any]]:
    """The splits as decided. Raises DataError."""
    return _curating(material.plan).split(material, findings, decision)


def some(rows: list[Any], most: int, seed: int) -> list[Any]:
    """At most so many of the rows, taken by chance, in their order; of each label as many as it has a share."""
    chance, by_label = random.Random(seed), defaultdict(list)
    for place, row in enumerate(rows):
        by_label[row.label].append(place)
    turns: list[tuple[float, int]] = []
    for places in by_label.values():
        turns += [(at / len(places), place) for at, place in enumerate(chance.sample(places, len(places)))]
    return [rows[place] for place in sorted(place for _, place in sorted(turns)[:most])]


def _licence(findings: DataFindings) -> str:
    told = findings.licences if isinstance(findings, ImageFindings | AudioFindings) else {}
    return ", ".join(told) or "as given by the uploader"


def _labels(rows: list[Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        if row.label is not None:
            counts[row.label] = counts.get(row.label, 0) + 1
    return dict(sorted(counts.items()))
