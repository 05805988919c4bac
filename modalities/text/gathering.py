"""Documents to continue pre-training on: `python -m modalities.text.gathering --spec docs.json`.

The spec is `{"files": ["handbook.txt", "notes.jsonl"], "name": "handbook", "licence": "CC-BY-4.0"}`: a text file is a
document, a table has one in the column `text` of each row. Copies are left out; documents that say nearly the same stay
together, and about a tenth is kept apart as dev rows. Nobody looks for private data, and no rows are locked.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moatelier.contracts import Columns, CurationReport, DatasetCard, SplitInfo, SplitName
from moatelier.errors import DataError, InvalidRequest
from moatelier.ids import canonical_json, digest_file, digest_json
from moatelier.job import Job, main
from modalities.text.documents import CONTENT
from modalities.text.duplicates import near_clusters
from modalities.text.reading import as_text, place, read_table
from store import artifacts

_DEV = 10
"""One cluster in so many is for dev."""


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Read the files and leave a dataset's card; returns its digest and how many documents it has.

    Raises:
        InvalidRequest: The spec names no files.
        DataError: A file cannot be read, or has no document.
    """
    files = [Path(file) for file in spec.get("files") or ()]
    if not files:
        raise InvalidRequest("The spec names no files.", where="files", remedy='Give {"files": ["handbook.txt"]}.')
    texts = [text for file in files for text in _read(file)]
    job.check()
    kept = list(dict.fromkeys(texts))
    clusters = near_clusters(kept)
    splits = _split(kept, clusters)
    card = DatasetCard(
        name=str(spec.get("name") or files[0].stem),
        source=digest_json([digest_file(file) for file in files]),
        test_source=None,
        licence=str(spec.get("licence") or "as given by the uploader"),
        modality="text",
        kind="pretraining",
        columns=Columns(input=CONTENT),
        labels=(),
        splits={name: _stored(kept, numbers) for name, numbers in splits.items()},
        locked=digest_json([]),
        report=_report(len(texts), len(kept), len(clusters)),
    )
    told: dict[str, Any] = {name: len(numbers) for name, numbers in splits.items()}
    return told | {"dataset": artifacts.put_json(card), "copies": len(texts) - len(kept)}


def _read(file: Path) -> list[str]:
    """The documents of a file."""
    if file.suffix.lower() == ".txt":
        try:
            texts = [file.read_text(encoding="utf-8-sig")]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"The file is not readable: {error}", where=str(file), remedy="Save it as UTF-8."
            ) from error
    else:
        table = read_table(file, file.name)
        if CONTENT not in table.columns:
            told = f"The columns are {', '.join(table.columns)}; rename the one that holds the documents."
            raise DataError(f"There is no column {CONTENT!r}.", where=file.name, remedy=told)
        texts = []
        for record in table.records:
            found = as_text(record.values.get(CONTENT))
            if found is None:
                where = place(file.name, record.number, record.line, CONTENT)
                raise DataError("The value is not text.", where=where, remedy="Write one string of valid Unicode.")
            texts.append(found)
    full = [text for text in texts if text.strip()]
    if not full:
        raise DataError("There is no text in the file.", where=file.name, remedy="Give one with text.")
    return full


def _split(texts: Sequence[str], near: Sequence[Sequence[int]]) -> dict[SplitName, list[int]]:
    """Positions of the documents of train and dev: whole clusters, in an order that their content fixes."""
    owner = {number: cluster[0] for cluster in near for number in cluster}
    clusters: dict[int, list[int]] = {}
    for number in range(len(texts)):
        clusters.setdefault(owner.get(number, number), []).append(number)
    ordered = sorted(clusters.values(), key=lambda cluster: digest_json(texts[cluster[0]]))
    dev = [number for cluster in ordered[_DEV - 1 :: _DEV] for number in cluster]
    return {"train": sorted(set(range(len(texts))) - set(dev)), "dev": sorted(dev)}


def _stored(texts: Sequence[str], numbers: Sequence[int]) -> SplitInfo:
    rows = (
        {"id": digest_json(texts[n])[:16], "row": n + 1, CONTENT: texts[n], "label": None, "group": None}
        for n in numbers
    )
    lines = b"".join(canonical_json(row) + b"\n" for row in rows)
    return SplitInfo(rows=len(numbers), artifact=artifacts.put_bytes(lines) if numbers else None)


def _report(read: int, kept: int, near: int) -> CurationReport:
    return CurationReport(
        rows_read=read,
        rows_kept=kept,
        exact_duplicates=read - kept,
        near_duplicate_clusters=near,
        near_duplicates_of_test=0,
        conflicting_labels=0,
    )


if __name__ == "__main__":
    main("modalities.text.gathering", work)
