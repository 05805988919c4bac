"""Image data: the public face of what a folder, a zip or a table holds, what is wrong with it, and how it is divided.

`profile` looks, `read_rows` reads and keeps each image as an artifact, `find` reports facts for the curator, `split`
carries out its decision, `report` records it, `write_rows` and `parse_rows` keep a split as JSON lines:

    {"id": "<16 hex>", "row": 12, "image": "<digest>", "pixels": "<digest>", "label": "...", "caption": null, ...}

Rows name images by digest, never by path. Nothing here imports torch.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moatelier.contracts import (
    CurationDecision,
    ImageColumns,
    ImageFindings,
    ImageProfile,
    SplitName,
)
from moatelier.ids import canonical_json, digest_json
from modalities.checks import check_locked, check_rows, refuse_unusable
from modalities.clusters import exact_groups
from modalities.listing import every_table, first_table, open_data, parts_in, tables_in
from modalities.splits import SPLITS, divide, is_kept
from modalities.text.data import report
from modalities.vision.duplicates import Look, near_any, near_clusters
from modalities.vision.images import decode_image, media
from modalities.vision.rows import ImageRow, guess_columns, list_rows, look
from store import artifacts

__all__ = [
    "SPLITS",
    "ImageRow",
    "check",
    "find",
    "locked_digest",
    "open_image",
    "parse_rows",
    "profile",
    "read_rows",
    "report",
    "rows_of",
    "sizes",
    "split",
    "write_rows",
]

TINY = 16
"""Pixels of the shorter side below which an image tells too little."""
_SAMPLE = 200
_MOST_PROBLEMS = 50
_APART = "by what the eye sees"
_KEPT = ("label", "caption", "group", "licence")


def profile(
    path: Path, name: str, file_id: str, beside: tuple[Path, str] | None = None, parts: Sequence[str] = ()
) -> ImageProfile:
    """Look at uploaded images without deciding or keeping anything. Takes what `read_rows` takes.

    Args:
        path: See `read_rows`.
        name: See `read_rows`.
        file_id: Its id in the store.
        beside: See `read_rows`.
        parts: Only these of the folders or tables that divide the images; none of them means all.

    Raises:
        DataError: They cannot be read at all.
    """
    with open_data(path, name, media(), beside) as (files, table):
        head = first_table(files, table)
        columns = guess_columns(head) if head else None
        chosen = parts or (every_table(files, table) if columns or not head else ())
        whole = [row for part in chosen for row in list_rows(files, columns, part, table)]
        sample = [whole[i] for i in sorted({int(i) for i in np.linspace(0, len(whole) - 1, min(_SAMPLE, len(whole)))})]
        seen = [look(files, listed, lambda _: "") for listed in sample]
        problems = {id(row): row.problem for row in (*(listed.row for listed in whole), *seen) if row.problem}
        labels = Counter(listed.row.label for listed in whole if listed.row.label is not None)
        return ImageProfile(
            file=file_id,
            name=name,
            format="table" if table else files.format,
            images=len(whole) if columns or not head else len(head.records),
            parts=parts_in(files, media()),
            labels=dict(sorted(labels.items())),
            tables=tuple(tables_in(files)),
            columns=columns,
            headers=head.columns if head else (),
            looked_at=sum(row.look is not None for row in seen),
            sizes=sizes([row.look for row in seen if row.look]),
            problems=tuple(list(problems.values())[:_MOST_PROBLEMS]),
        )


def read_rows(
    path: Path,
    name: str,
    columns: ImageColumns | None = None,
    *,
    part: str | None = None,
    beside: tuple[Path, str] | None = None,
    watch: Callable[[int, int], None] = lambda *_: None,
) -> list[ImageRow]:
    """Read images as rows, and keep each as an artifact. A row whose image cannot be used has its `problem` set.

    Args:
        path: A folder or zip with a folder for each class or with a table, or a table.
        name: What its owner calls it.
        columns: Which column of the table plays which role; None takes what they seem to be.
        part: Only this one of the folders or tables that divide the images, such as `train`.
        beside: The folder or zip that a table's paths lead into, and its name; without it they are refused.
        watch: Called after each image with (images done, images in all); may raise to stop.

    Raises:
        DataError: It cannot be read, there are no images or classes, or most rows cannot be used.
        ResourceExhausted: The disk is full.
    """
    with open_data(path, name, media(), beside) as (files, table):
        found = list_rows(files, columns, part, table)
        rows = []
        for listed in found:
            rows.append(look(files, listed, artifacts.put_bytes))
            watch(len(rows), len(found))
    refuse_unusable(rows)
    return rows


def check(rows: Sequence[ImageRow], test_rows: Sequence[ImageRow] | None = None) -> None:
    """The cheap part of `find`: refuse rows that cannot make a dataset. Raises DataError."""
    usable = [row for row in rows if row.problem is None]
    copies = _copies(usable)
    check_rows(rows, usable, [row for row in usable if row.number not in copies], (), _APART)
    if test_rows is not None:
        check_locked(usable, test_rows, [row for row in test_rows if row.problem is None], None, 0)


def find(rows: Sequence[ImageRow], *, test_rows: Sequence[ImageRow] | None = None) -> ImageFindings:
    """Report what the curator decides on.

    Args:
        rows: From `read_rows`.
        test_rows: The locked rows of a separate test set.

    Raises:
        DataError: The rows cannot make a dataset: one label only, a class with one row, spellings of a label that
            differ in case, nothing but duplicates, or locked rows that nobody could answer.
    """
    usable = [row for row in rows if row.problem is None]
    locked = [row for row in test_rows or () if row.problem is None]
    copies, looks = _copies(usable), _looks(usable)
    clusters = near_clusters(looks)
    check_rows(rows, usable, [row for row in usable if row.number not in copies], clusters, _APART)
    if test_rows is not None:
        check_locked(usable, test_rows, locked, None, 0)
    return ImageFindings(
        rows=len(rows),
        labels=dict(sorted(Counter(row.label for row in usable if row.label is not None).items())),
        exact_duplicates=tuple(sorted(copies)),
        conflicting=_conflicting(usable),
        clusters=tuple(tuple(usable[i].number for i in cluster) for cluster in clusters),
        near_test=tuple(usable[i].number for i in near_any(looks, _looks(locked))) if locked else (),
        problems=tuple(row.problem for row in rows if row.problem is not None),
        tiny=tuple(row.number for row, seen in zip(usable, looks, strict=True) if seen.side < TINY),
        blank=tuple(row.number for row, seen in zip(usable, looks, strict=True) if seen.blank),
        sizes=sizes(looks),
        licences=dict(sorted(Counter(row.licence for row in usable if row.licence).items())),
    )


def split(
    rows: Sequence[ImageRow],
    findings: ImageFindings,
    decision: CurationDecision,
    seed: int,
    test_rows: Sequence[ImageRow] | None = None,
) -> dict[SplitName, list[ImageRow]]:
    """Carry out the curator's decision: drop, and divide by group, cluster and label. See `modalities.splits`."""
    return divide([row for row in rows if is_kept(row, decision)], findings.clusters, decision, seed, test_rows)


def write_rows(rows: Sequence[ImageRow]) -> bytes:
    """A split as JSON lines, in the order given."""
    lines = (
        {"id": row.id, "row": row.number, "image": row.image, "pixels": row.pixels}
        | {name: getattr(row, name) for name in _KEPT}
        for row in rows
    )
    return b"".join(canonical_json(line) + b"\n" for line in lines)


def parse_rows(data: bytes) -> list[ImageRow]:
    """The rows that `write_rows` wrote, without where they came from and how they look."""
    return rows_of([json.loads(line) for line in data.split(b"\n") if line])


def rows_of(values: Sequence[Mapping[str, Any]]) -> list[ImageRow]:
    """Rows from their JSON."""
    return [
        ImageRow(value["row"], value["image"], value["pixels"], **{name: value[name] for name in _KEPT})
        for value in values
    ]


def open_image(row: ImageRow) -> Image.Image:
    """The row's image, decoded to RGB.

    Raises:
        NotFound: The artifact is gone.
        IntegrityError: Its bytes have changed.
    """
    return decode_image(artifacts.get_bytes(row.image), row.place or row.image)


def locked_digest(rows: Sequence[ImageRow]) -> str:
    """The content hash of locked rows; neither their order nor their numbers matter."""
    return digest_json(sorted(digest_json([row.pixels, row.label, row.caption]) for row in rows))


def _looks(rows: Sequence[ImageRow]) -> list[Look]:
    looks = [row.look for row in rows if row.look is not None]
    assert len(looks) == len(rows), "rows that were parsed have not been looked at"
    return looks


def sizes(looks: Sequence[Look]) -> dict[str, float]:
    """Shorter sides in pixels: min, p50, p95, max."""
    if not looks:
        return {}
    low, p50, p95, high = np.percentile([seen.side for seen in looks], [0, 50, 95, 100])
    return {"min": float(low), "p50": float(p50), "p95": float(p95), "max": float(high)}


def _copies(rows: Sequence[ImageRow]) -> set[int]:
    keys = ((row.pixels, row.label, row.caption) for row in rows)
    return {rows[i].number for group in exact_groups(keys) for i in group[1:]}


def _conflicting(rows: Sequence[ImageRow]) -> tuple[int, ...]:
    # Only labels conflict; two captions of one image are no contradiction.
    labelled = [row for row in rows if row.label is not None]
    groups = exact_groups(row.pixels for row in labelled)
    torn = [group for group in groups if len({labelled[i].label for i in group}) > 1]
    return tuple(sorted(labelled[i].number for group in torn for i in group))
