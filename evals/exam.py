"""An exam becomes a dataset: a tenth of it open for comparing recipes, the rest locked like any test rows."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from evals import vault
from evals.rows import EvalRow
from moatelier.contracts import CurationReport, DatasetCard, SplitInfo
from moatelier.errors import DataError
from moatelier.ids import digest_json
from modalities.clusters import UnionFind, exact_groups
from modalities.exam import read_exam
from modalities.text import data
from modalities.text.duplicates import near_clusters
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
    rows = _grouped(exam.rows)
    shown, locked = _divided(rows, file.name)
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
        report=_report(len(exam.rows), rows),
    )
    return datasets.add_card(project, card, task)


def _divided(rows: Sequence[Row], name: str) -> tuple[list[Row], list[Row]]:
    """The open and the locked rows: by their content alone, rows of one group on one side."""
    groups = sorted({row.group for row in rows}, key=lambda group: digest_json(group))
    if len(groups) < 2:
        raise DataError(
            "An exam needs at least two questions that have neither a group nor a picture or recording in common.",
            where=name,
            remedy="Add some: one is tried on everybody before the others are asked.",
        )
    shown = set(groups[: max(1, int(OPEN_SHARE * len(groups)))])
    return [row for row in rows if row.group in shown], [row for row in rows if row.group not in shown]


def _grouped(rows: Sequence[Row]) -> list[Row]:
    """The distinct rows, each with the group of all that ask nearly the same words or about the same medium.

    Raises:
        DataError: The same question has two answers.
    """
    distinct = list({row.id: row for row in rows}.values())
    asked = [(row.messages[:-1], EvalRow(row.id, row.messages[:-1], row.answer).asks) for row in distinct]
    for places in exact_groups(digest_json(list(prompt)) for prompt, _ in asked):
        raise DataError(
            "The same question has two answers.",
            where=f"{distinct[places[1]].place}, and row {distinct[places[0]].number}",
            remedy="Keep the right one.",
        )
    sets = UnionFind(len(distinct))
    owners: dict[str, int] = {}
    for place, (row, (_, keys)) in enumerate(zip(distinct, asked, strict=True)):
        for key in (*keys, *([f"group {row.group}"] if row.group else [])):
            sets.join(place, owners.setdefault(key, place))
    words = [place for place, (prompt, _) in enumerate(asked) if isinstance(prompt[-1]["content"], str)]
    for cluster in near_clusters([str(distinct[place].messages[-2]["content"]) for place in words]):
        for other in cluster[1:]:
            sets.join(words[cluster[0]], words[other])
    firsts = {place: min(distinct[other].id for other in members) for members in sets.sets() for place in members}
    return [replace(row, group=firsts[place]) for place, row in enumerate(distinct)]


def _report(read: int, rows: Sequence[Row]) -> CurationReport:
    sizes = Counter(row.group for row in rows)
    return CurationReport(
        rows_read=read,
        rows_kept=len(rows),
        exact_duplicates=read - len(rows),
        near_duplicate_clusters=sum(size > 1 for size in sizes.values()),
        near_duplicates_of_test=0,
        conflicting_labels=0,
        reasons=(
            f"{OPEN_SHARE:.0%} of the questions are open for `--select`, the rest is locked",
            "questions of one group, about one medium or in nearly the same words stay together and count as one draw",
        ),
    )
