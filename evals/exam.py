"""An exam becomes a dataset: a tenth of it open for comparing recipes, the rest locked like any test rows."""

from collections.abc import Callable
from pathlib import Path

from evals import vault
from moatelier.contracts import CurationReport, DatasetCard, SplitInfo
from moatelier.errors import DataError
from moatelier.ids import digest_json
from modalities.exam import read_exam
from modalities.text import data
from modalities.text.rows import Row
from store import artifacts, datasets

OPEN_SHARE = 0.1


def lock_exam(project: str, task: str, file_id: str, check: Callable[[], None]) -> str:
    """The digest of the card of an uploaded exam, whose rows are locked; the same file gives the same one.

    Args:
        project: Whose file it is.
        task: Which task asked for it.
        file_id: Of the upload.
        check: Called before each row; may raise to stop.

    Raises:
        NotFound: There is no such file.
        DataError, InvalidRequest: It is no exam; see `modalities.exam.read_exam`.
    """
    file = datasets.get_file(project, file_id)
    exam = read_exam(datasets.file_path(project, file_id), file.name, artifacts.put_bytes, check)
    shown, locked = _divided(exam.rows, file.name)
    digest = data.locked_digest(locked)
    vault.lock(data.write_rows(locked), digest)
    card = DatasetCard(
        name=Path(file.name).stem,
        source=file.sha256,
        test_source=None,
        licence="as given by the uploader",
        modality="text",  # its rows are conversations, whatever stands in them
        kind="chat",
        columns=exam.columns,
        labels=(),
        splits={
            "select": SplitInfo(rows=len(shown), artifact=artifacts.put_bytes(data.write_rows(shown))),
            "test": SplitInfo(rows=len(locked), artifact=None),
        },
        locked=digest,
        report=_report(exam.rows),
    )
    return datasets.add_card(project, card, task)


def _divided(rows: tuple[Row, ...], name: str) -> tuple[list[Row], list[Row]]:
    """The open and the locked rows: by their content alone, groups kept together."""
    drawn = {row.group or row.id: digest_json(row.group or row.id) for row in rows}
    if len(drawn) < 2:
        raise DataError(
            "An exam needs at least two questions, of two groups if it has a column for them.",
            where=name,
            remedy="Add some: one is tried on everybody before the others are asked.",
        )
    order = sorted(drawn, key=lambda key: drawn[key])
    shown = set(order[: max(1, int(OPEN_SHARE * len(order)))])
    parts: tuple[list[Row], list[Row]] = ([], [])
    for row in {row.id: row for row in rows}.values():
        parts[(row.group or row.id) not in shown].append(row)
    return parts


def _report(rows: tuple[Row, ...]) -> CurationReport:
    distinct = len({row.id for row in rows})
    return CurationReport(
        rows_read=len(rows),
        rows_kept=distinct,
        exact_duplicates=len(rows) - distinct,
        near_duplicate_clusters=0,
        near_duplicates_of_test=0,
        conflicting_labels=0,
        reasons=(f"{OPEN_SHARE:.0%} of the questions are open for `--select`, the rest is locked",),
    )
