"""Audio data: the public face of what a folder, a zip or a table holds, what is wrong with it, and how it is divided.

`profile` looks, `read_rows` reads and keeps each recording as an artifact, `find` reports facts for the curator,
`split` carries out its decision, `report` records it, `write_rows` and `parse_rows` keep a split as JSON lines:

    {"id": "<16 hex>", "row": 12, "audio": "<digest>", "samples": "<digest>", "text": "...", "speaker": null, ...}

Rows name recordings by digest, never by path. Nothing here imports torch.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moatelier.contracts import (
    AudioColumns,
    AudioFindings,
    AudioGoal,
    AudioProfile,
    CurationDecision,
    SplitName,
)
from moatelier.ids import canonical_json, digest_json
from modalities.audio.checks import check, find, fit_window, lengths, rates
from modalities.audio.rows import AudioRow, guess_columns, hear, list_rows, speakers_of
from modalities.audio.sound import Sound, decode_sound, media
from modalities.audio.splits import kept_apart, split_rows
from modalities.checks import refuse_unusable
from modalities.listing import every_table, first_table, open_data, parts_in, tables_in
from modalities.splits import SPLITS
from modalities.text.data import report
from store import artifacts

__all__ = [
    "SPLITS",
    "AudioRow",
    "check",
    "find",
    "fit_window",
    "kept_apart",
    "locked_digest",
    "open_sound",
    "parse_rows",
    "profile",
    "read_rows",
    "report",
    "rows_of",
    "split",
    "write_rows",
]

_SAMPLE = 200
_MOST_PROBLEMS = 50
_KEPT = ("text", "label", "speaker", "source", "licence", "seconds")


def profile(
    path: Path, name: str, file_id: str, beside: tuple[Path, str] | None = None, parts: Sequence[str] = ()
) -> AudioProfile:
    """Look at uploaded recordings without deciding or keeping anything. Takes what `read_rows` takes.

    Args:
        path: See `read_rows`.
        name: See `read_rows`.
        file_id: Its id in the store.
        beside: See `read_rows`.
        parts: Only these of the folders or tables that divide the recordings; none of them means all.

    Raises:
        DataError: They cannot be read at all.
    """
    with open_data(path, name, media(), beside) as (files, table):
        head = first_table(files, table)
        columns = guess_columns(head) if head else None
        goal: AudioGoal = "label" if columns is not None and columns.label and not columns.text else "transcript"
        chosen = parts or (every_table(files, table) if columns or not head else ())
        whole = [row for part in chosen for row in list_rows(files, goal, columns, part, table)]
        sample = [whole[i] for i in sorted({int(i) for i in np.linspace(0, len(whole) - 1, min(_SAMPLE, len(whole)))})]
        heard = [hear(files, listed, lambda _: "") for listed in sample]
        rows = [listed.row for listed in whole]
        problems = {id(row): row.problem for row in (*rows, *heard) if row.problem}
        told = Counter(row.target for row in rows if row.target)
        hearings = [row.hearing for row in heard if row.hearing]
        return AudioProfile(
            file=file_id,
            name=name,
            format="table" if table else files.format,
            recordings=len(rows) if columns or not head else len(head.records),
            parts=parts_in(files, media()),
            labels=dict(sorted(told.items())) if _are_labels(told) else {},
            transcripts=sum(row.text is not None for row in rows),
            speakers=speakers_of(rows),
            tables=tuple(tables_in(files)),
            columns=columns,
            headers=head.columns if head else (),
            looked_at=len(hearings),
            seconds=lengths([hearing.seconds for hearing in hearings]),
            rates=rates(hearings),
            problems=tuple(list(problems.values())[:_MOST_PROBLEMS]),
        )


def read_rows(
    path: Path,
    name: str,
    goal: AudioGoal,
    columns: AudioColumns | None = None,
    *,
    part: str | None = None,
    beside: tuple[Path, str] | None = None,
    watch: Callable[[int, int], None] = lambda *_: None,
) -> list[AudioRow]:
    """Read recordings as rows, and keep each as an artifact. One that cannot be used has the row's `problem` set.

    Args:
        path: A folder or zip with a table, with a folder for each class or with telling file names; or a table.
        name: What its owner calls it.
        goal: What is to be told of the recordings.
        columns: Which column of the table plays which role; None takes what they seem to be.
        part: Only this one of the folders or tables that divide the recordings, such as `train`.
        beside: The folder or zip that a table's paths lead into, and its name; without it they are refused.
        watch: Called after each recording with (recordings done, recordings in all); may raise to stop.

    Raises:
        DataError: It cannot be read, there are no recordings, nothing says what is in them, or most rows are unusable.
        ResourceExhausted: The disk is full.
    """
    with open_data(path, name, media(), beside) as (files, table):
        found = list_rows(files, goal, columns, part, table)
        rows = []
        for listed in found:
            rows.append(hear(files, listed, artifacts.put_bytes))
            watch(len(rows), len(found))
    refuse_unusable(rows)
    return rows


def split(
    rows: Sequence[AudioRow],
    findings: AudioFindings,
    decision: CurationDecision,
    seed: int,
    test_rows: Sequence[AudioRow] | None = None,
) -> dict[SplitName, list[AudioRow]]:
    """Carry out the curator's decision: drop, and divide by speaker, source and samples. See `split_rows`."""
    return split_rows(rows, findings, decision, seed, test_rows)


def write_rows(rows: Sequence[AudioRow]) -> bytes:
    """A split as JSON lines, in the order given."""
    lines = (
        {"id": row.id, "row": row.number, "audio": row.audio, "samples": row.samples}
        | {name: getattr(row, name) for name in _KEPT}
        for row in rows
    )
    return b"".join(canonical_json(line) + b"\n" for line in lines)


def parse_rows(data: bytes) -> list[AudioRow]:
    """The rows that `write_rows` wrote, without where they came from and what they are like."""
    return rows_of([json.loads(line) for line in data.split(b"\n") if line])


def rows_of(values: Sequence[Mapping[str, Any]]) -> list[AudioRow]:
    """Rows from their JSON."""
    return [
        AudioRow(value["row"], value["audio"], value["samples"], **{name: value[name] for name in _KEPT})
        for value in values
    ]


def open_sound(row: AudioRow) -> Sound:
    """The row's recording, decoded.

    Raises:
        NotFound: The artifact is gone.
        IntegrityError: Its bytes have changed.
    """
    return decode_sound(artifacts.get_bytes(row.audio), row.place or row.audio)


def locked_digest(rows: Sequence[AudioRow]) -> str:
    """The content hash of locked rows; neither their order nor their numbers matter."""
    return digest_json(sorted(digest_json([row.samples, row.text, row.label]) for row in rows))


def _are_labels(told: Counter[str]) -> bool:
    return 2 <= len(told) <= max(2, told.total() // 2)
