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

from evals import answers, loss, signs
from evals.rows import EvalRow, split_rows
from evals.scorers import Answered, Scores, score
from moatelier.contracts import DatasetCard, EvalReport, EvalSpec, SplitName
from moatelier.job import Job, main
from modalities.bundle import bundle_folder, read_manifest
from serving.engine import TextEngine
from serving.engines import Engine, open_engine
from store import datasets

BASE = "base"
"""The subject of reports on the base itself."""


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
    told: dict[str, Any] = {}
    if on_dev:
        told = _told(engine, card, rows, answered, adapter)
    else:
        shutil.rmtree(job.folder / "answers", ignore_errors=True)  # of select rows nothing but scores is kept
    return report(
        card,
        subject,
        spec.split,
        score(card.kind, card.labels, answered, seed=spec.seed),
        rows=len(rows),
        seconds=time.monotonic() - started,
        **told,
    )


def _told(
    engine: Engine, card: DatasetCard, rows: Sequence[EvalRow], answered: Sequence[Answered], adapter: str | None
) -> dict[str, Any]:
    """What is told of dev rows alone: their loss, and the answers with what diagnosis reads of them."""
    if not isinstance(engine, TextEngine) or card.kind in ("preference", "thumbs"):  # not all are to be learnt
        return {"loss": None, "predictions": signs.keep(card, rows, answered)}
    expected, sure = loss.measure(engine, rows, answered, adapter=adapter)
    return {"loss": loss.mean(expected), "predictions": signs.keep(card, rows, answered, expected, sure)}


def report(
    card: DatasetCard, subject: str, split: SplitName, scores: Scores, *, rows: int, seconds: float, **more: Any
) -> EvalReport:
    """Scores as an `EvalReport`; `more` holds its fields `loss` and `predictions`."""
    return EvalReport(
        subject=subject,
        split=split,
        rows=rows,
        kind=card.kind,
        metrics=scores.metrics,
        per_class=scores.per_class,
        confusion=scores.confusion,
        natural_stop_rate=scores.natural_stop_rate,
        format_error_rate=scores.format_error_rate,
        seconds=round(seconds, 3),
        **more,
    )


if __name__ == "__main__":
    main("evals.run", work)
