"""Write an adapter for other programs, and hand it out only once another reader answers as we do: the parity gate.

    python -m evals.exporting --spec spec.json

`spec.json` is an `ExportSpec`; the result is a `Parity`, which also lies beside the files. What was tuned and tested
well may be spoiled on its way out, by a merge in low precision, a tied head, another template or stop token (pitfalls:
LLaMA-Factory#5232, unsloth#1832). So the export is read again by another library, which answers the same dev rows.
"""

from collections.abc import Sequence
from typing import Any

from evals.mixing import open_rows
from evals.rows import EvalRow
from evals.scorers import Answered, metrics_of, score
from moatelier.contracts import AdapterManifest, DatasetCard, ExportSpec, Kind, Parity
from moatelier.errors import IntegrityError, MoatelierError
from moatelier.ids import digest_json
from moatelier.job import Job, main
from modalities.bundle import bundle_folder, read_manifest
from modalities.exported import drafting, export_folder, publish, read_export
from store import datasets
from training.export import Answer, Exporter, Reading, load

PROMPTS = 16
"""So many rows must be answered alike to the last token; further ones count for the score."""
SCORED = 64


def work(spec_fields: dict[str, Any], job: Job) -> dict[str, Any]:
    """Export as an `ExportSpec` says and return the `Parity`.

    Raises:
        InvalidRequest: The adapter or its base has no such form.
        NotFound: Bundle or dataset are gone.
        DataError: The dataset has neither dev nor select rows to ask.
        IntegrityError: Bundle, base or rows were changed, or the export answers differently; says where they part.
        ModelUnavailable: The base is not pulled.
        ResourceExhausted: The disk has no room.
        Cancelled: The job was asked to stop.
    """
    spec = ExportSpec.model_validate(spec_fields)
    try:
        return read_export(export_folder(spec)).model_dump(mode="json")
    except MoatelierError:  # not there, or not whole
        pass
    return export(spec, job).model_dump(mode="json")


def export(spec: ExportSpec, job: Job) -> Parity:
    """Write, read back, compare, publish; raises as `work` does."""
    manifest = read_manifest(bundle_folder(spec.bundle))
    exporter = load(spec, manifest)
    card = datasets.get_card(manifest.dataset)
    rows = open_rows(card, ("dev", "select"))[1][:SCORED]
    with drafting(spec, exporter.size) as draft:
        ours = exporter.ask([row.prompt for row in rows], [row.truth for row in rows])
        _tell(job, 1, "asked")
        exporter.write(draft)
        _tell(job, 2, "written")
        reading = exporter.read(draft)
        _tell(job, 3, "read back")
        parity = compared(spec, exporter, card, rows, ours, reading)
        check(parity, manifest, rows, ours, reading)
        return publish(draft, spec, parity)


def _tell(job: Job, step: int, done: str) -> None:
    job.emit("progress", step, done=step, steps=3, text=done)
    job.check()


def compared(
    spec: ExportSpec,
    exporter: Exporter,
    card: DatasetCard,
    rows: Sequence[EvalRow],
    ours: Sequence[Answer],
    reading: Reading,
) -> Parity:
    """The figures, whatever they are."""
    kind: Kind = "chat" if card.kind == "retrieval" else card.kind  # among the captions asked for, one is right
    metric = metrics_of(kind)[0]
    own, theirs = (
        score(kind, card.labels, [Answered(row.truth, a.text, a.stopped, row.group) for row, a in pairs])
        for pairs in (list(zip(rows, ours, strict=True)), list(zip(rows, reading.answers, strict=True)))
    )
    asked = rows[:PROMPTS]
    return Parity(
        adapter=spec.bundle,
        format=spec.format,
        numbers=spec.numbers,
        reader=reading.reader,
        prompts=len(asked),
        prompts_digest=digest_json([row.prompt for row in asked]),
        tolerance=exporter.tolerance,
        largest_difference=max(reading.differences),
        merge_difference=reading.merge_difference,
        equal_answers=sum(a.ids == b.ids for a, b in zip(ours[:PROMPTS], reading.answers[:PROMPTS], strict=True)),
        score=own.metrics[metric].point,
        score_exported=theirs.metrics[metric].point,
        score_tolerance=exporter.score_tolerance,
    )


def check(
    parity: Parity,
    manifest: AdapterManifest,
    rows: Sequence[EvalRow],
    ours: Sequence[Answer],
    reading: Reading,
) -> None:
    """Refuse an export that answers differently.

    Raises:
        IntegrityError: It does; says at which row and token, or by how much.
    """
    if parity.equal_answers < parity.prompts:
        pairs = zip(rows, ours, reading.answers, strict=True)
        row, mine, other = next(pair for pair in pairs if pair[1].ids != pair[2].ids)
        raise _parts(parity, _where(mine, other), f"dev row {row.id}")
    limits = (
        (parity.largest_difference, parity.tolerance, "its logits differ by"),
        (parity.merge_difference or 0.0, parity.tolerance, "merging changes the logits by"),
        (abs(parity.score - parity.score_exported), parity.score_tolerance, "its score differs by"),
    )
    for found, allowed, told in limits:
        if not found <= allowed:  # NaN is not below anything
            raise _parts(parity, f"{told} {found:.3g}, and {allowed:g} is let through", manifest.suffix)


def _where(mine: Answer, other: Answer) -> str:
    place = next((n for n, (a, b) in enumerate(zip(mine.ids, other.ids, strict=False)) if a != b), None)
    place = min(len(mine.ids), len(other.ids)) if place is None else place
    return f"they part at token {place} of the answer: {mine.text[:80]!r} by us, {other.text[:80]!r} by the export"


def _parts(parity: Parity, what: str, where: str) -> IntegrityError:
    form = f"{parity.format} in {parity.numbers}" if parity.format == "gguf" else parity.format
    gentler = "Export it with `--numbers f16` or `f32`." if parity.numbers != "f32" else "Export it as `peft`."
    return IntegrityError(
        f"The export as {form}, read by {parity.reader}, does not answer as the adapter does: {what}.",
        where=where,
        remedy=f"Nothing was handed out. {gentler}",
    )


if __name__ == "__main__":
    main("evals.exporting", work)
