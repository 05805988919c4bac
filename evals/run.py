"""Evaluate the base or one sealed adapter on dev or select rows of a dataset.

    python -m evals.run --spec spec.json

`spec.json` is an `EvalSpec`; the result is an `EvalReport`. On dev rows diagnosis may read along, so the answers are
kept as an artifact and the loss of texts is measured; of pictures and recordings training's own dev loss tells as much.
On select rows there are scores and nothing else.
"""

import shutil
import time
from collections.abc import Sequence
from typing import Any

from evals import answers, loss
from evals.deciding import BASE, report
from evals.rows import EvalRow, split_rows
from evals.scorers import NO_LABEL, Answered, plain, score
from moatelier.contracts import DatasetCard, EvalReport, EvalSpec
from moatelier.ids import canonical_json
from moatelier.job import Job, main
from modalities.bundle import bundle_folder, read_manifest
from serving.engine import TextEngine
from serving.engines import open_engine
from store import artifacts, datasets


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Evaluate as an `EvalSpec` says and return the `EvalReport`.

    Raises:
        NotFound: No such dataset, bundle or base.
        DataError: The split has no rows.
        IntegrityError: Rows or bundle were changed.
        ModelUnavailable: The base is not pulled.
        Cancelled: The job was asked to stop; answers so far stay in its folder.
    """
    return evaluate(EvalSpec.model_validate(spec), job).model_dump(mode="json")


def evaluate(spec: EvalSpec, job: Job) -> EvalReport:
    """Answer and score one split; raises as `work` does."""
    card = datasets.get_card(spec.dataset)
    rows = split_rows(card, spec.split)
    if spec.bundle is not None:
        read_manifest(bundle_folder(spec.bundle))  # a missing one shows before the base is loaded
    started = time.monotonic()
    engine = open_engine(spec.base, card.modality)
    adapter = answers.load_subject(engine, spec.bundle)
    subject = adapter or BASE
    answered = answers.answer(
        engine,
        card,
        rows,
        adapter=adapter,
        folder=job.folder / "answers",
        progress=answers.tell(job, "evaluate", subject, len(rows)),
    )
    on_dev = spec.split == "dev"
    spoken = on_dev and card.kind not in ("preference", "thumbs")  # their answers are not all to be learnt
    if not on_dev:
        shutil.rmtree(job.folder / "answers", ignore_errors=True)  # of select rows nothing but scores is kept
    return report(
        card,
        subject,
        spec.split,
        score(card.kind, card.labels, answered, seed=spec.seed),
        rows=len(rows),
        loss=loss.mean_loss(engine, rows, adapter=adapter) if spoken and isinstance(engine, TextEngine) else None,
        predictions=_keep(card, rows, answered) if on_dev else None,
        seconds=time.monotonic() - started,
    )


def _keep(card: DatasetCard, rows: Sequence[EvalRow], answered: Sequence[Answered]) -> str:
    """Keep the answers as an artifact of JSON lines; `label` is what the answer was taken for."""
    labels = set(map(plain, card.labels))
    lines = []
    for row, given in zip(rows, answered, strict=True):
        label = None
        if card.kind == "classification":
            label = text if (text := plain(given.answer)) in labels else NO_LABEL
        line = {"id": row.id, "truth": row.truth, "answer": given.answer, "label": label, "stopped": given.stopped}
        lines.append(canonical_json(line) + b"\n")
    return artifacts.put_bytes(b"".join(lines))


if __name__ == "__main__":
    main("evals.run", work)
