"""Mix adapters, and see what the mixed one retains of each parent's task.

    python -m evals.mixing --spec spec.json

`spec.json` is a `MixSpec`; the result is a `Retention`. Each parent's task is that of the rows it was tuned for: its
select rows, or dev rows where it has none, answered by the parent and by the mixed adapter. Locked rows are the gate's.
"""

import shutil
from collections.abc import Sequence
from typing import Any

from evals import answers
from evals.rows import EvalRow, split_rows
from evals.scorers import compare, metrics_of, score
from moatelier.contracts import AdapterManifest, DatasetCard, MixSpec, Retained, Retention, SplitName
from moatelier.errors import DataError
from moatelier.job import Job, main
from modalities.bundle import bundle_folder, read_manifest
from serving.engines import Engine, open_engine
from store import datasets
from training.mixing import mix

_OPEN: tuple[SplitName, ...] = ("select", "dev")


def work(spec_fields: dict[str, Any], job: Job) -> dict[str, Any]:
    """Mix as a `MixSpec` says and return the `Retention`.

    Raises:
        InvalidRequest: The adapters cannot be mixed so.
        NotFound: A bundle or a parent's dataset is gone.
        DataError: A parent's dataset has neither select nor dev rows.
        IntegrityError: A bundle or rows were changed.
        ModelUnavailable: The base is not pulled.
        Cancelled: The job was asked to stop.
    """
    spec = MixSpec.model_validate(spec_fields)
    bundle = mix(spec.mixing, spec.suffix)
    job.emit("mixed", 0, adapter=bundle)
    job.check()
    manifest = read_manifest(bundle_folder(bundle))
    engine = open_engine(manifest.base, manifest.modality)
    answers.load_subject(engine, bundle)
    table: list[Retained] = []
    for parent in spec.mixing.parents:
        for dataset in tasks_of(read_manifest(bundle_folder(parent))):
            table.append(_retained(engine, bundle, parent, dataset, job, len(table)))
    shutil.rmtree(job.folder / "answers", ignore_errors=True)  # of select rows nothing but scores is kept
    return Retention(adapter=bundle, mixing=spec.mixing, table=tuple(table)).model_dump(mode="json")


def tasks_of(manifest: AdapterManifest) -> list[str]:
    """The datasets that an adapter was tuned for, or that those were of whom it was mixed."""
    if manifest.mixing is None:
        return [manifest.dataset]
    parents = [read_manifest(bundle_folder(parent)) for parent in manifest.mixing.parents]
    return list(dict.fromkeys(dataset for parent in parents for dataset in tasks_of(parent)))


def open_rows(card: DatasetCard, splits: Sequence[SplitName] = _OPEN) -> tuple[SplitName, list[EvalRow]]:
    """The rows that may be looked at as often as one likes: of the first split that has any, and its name.

    Raises:
        DataError: There are none.
    """
    for split in splits:
        try:
            return split, split_rows(card, split)
        except DataError:
            continue
    raise DataError(
        "The dataset has neither select nor dev rows.",
        where=card.name,
        remedy="Tune the adapter again with more rows, so that each split gets some.",
    )


def _retained(engine: Engine, bundle: str, parent: str, dataset: str, job: Job, number: int) -> Retained:
    """One line of the table."""
    card = datasets.get_card(dataset)
    split, rows = open_rows(card)
    answers.load_subject(engine, parent)
    given = {}
    for turn, adapter in enumerate((parent, bundle)):
        told = answers.tell(job, "retention", adapter, len(rows), before=100_000 * (2 * number + turn))
        folder = job.folder / "answers"
        given[adapter] = answers.answer(engine, card, rows, adapter=adapter, folder=folder, progress=told)
    metric = metrics_of(card.kind)[0]
    return Retained(
        parent=parent,
        dataset=dataset,
        split=split,
        rows=len(rows),
        metric=metric,
        by_parent=score(card.kind, card.labels, given[parent]).metrics[metric],
        by_mixed=score(card.kind, card.labels, given[bundle]).metrics[metric],
        comparison=compare(metric, card.kind, card.labels, parent, given[bundle], given[parent]),
    )


if __name__ == "__main__":
    main("evals.mixing", work)
