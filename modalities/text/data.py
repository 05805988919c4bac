"""Text data: the public face of what a file holds, what is wrong with it, and how it is divided.

`profile` looks, `read_rows` reads, `find` reports facts for the curator, `split` carries out its decision, `report`
records it, `write_rows` and `parse_rows` keep a split as JSON lines:

    {"id": "<16 hex>", "row": 12, "messages": [{"role": "...", "content": "..."}, ...], "label": "...", "group": null}

Preferences also have `"rejected": "..."`, thumbs `"good": true`.

Nothing here imports torch.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from moatelier.contracts import (
    Columns,
    CurationDecision,
    CurationReport,
    DataFindings,
    Kind,
    PrivateFinding,
    SplitName,
)
from moatelier.ids import canonical_json, digest_json
from modalities.checks import check_locked, check_rows
from modalities.clusters import exact_groups
from modalities.labels import judged
from modalities.splits import SPLITS
from modalities.text.duplicates import near_any, near_clusters, normalise
from modalities.text.labels import find_suspicious
from modalities.text.private import find_private
from modalities.text.profiling import profile
from modalities.text.reading import read_table
from modalities.text.rows import SYSTEM, Message, Row, build_rows
from modalities.text.shorten import shorten
from modalities.text.splits import redact_row, split_rows

__all__ = [
    "SPLITS",
    "SYSTEM",
    "Message",
    "Row",
    "find",
    "locked_digest",
    "parse_rows",
    "profile",
    "read_rows",
    "report",
    "shorten",
    "split",
    "token_lengths",
    "write_rows",
]


def read_rows(path: Path, name: str, kind: Kind, columns: Columns) -> list[Row]:
    """Read a file as rows of messages. Rows with an empty cell are among them, with their `problem` set.

    Args:
        path: Where the file lies.
        name: What its owner calls it.
        kind: What the rows are for.
        columns: Which column plays which role.

    Raises:
        DataError: The file cannot be read, a column is unknown, messages are malformed, or most rows are unusable.
    """
    return build_rows(read_table(path, name), kind, columns)


def check(rows: Sequence[Row], test_rows: Sequence[Row] | None = None) -> None:
    """The cheap part of `find`: refuse rows that cannot make a dataset, before anything is fetched or approved.

    Raises:
        DataError: Nothing usable, one label only, a class with one row, a label in two spellings; a test row that
            cannot be used or whose label never stands in the training file.
    """
    usable = [row for row in rows if row.problem is None]
    copies = _copies(usable)
    check_rows(rows, usable, [row for row in usable if row.number not in copies], clusters=())
    if test_rows is not None:
        check_locked(usable, test_rows, [row for row in test_rows if row.problem is None], None, 0)


def find(
    rows: Sequence[Row],
    *,
    test_rows: Sequence[Row] | None = None,
    count_tokens: Callable[[Row], int] | None = None,
    max_tokens: int = 1024,
    redacted: bool = False,
) -> DataFindings:
    """Report what the curator decides on.

    Args:
        rows: From `read_rows`.
        test_rows: The locked rows of a separate test file.
        count_tokens: Prompt plus answer in tokens; without it no row is too long.
        max_tokens: How many fit.
        redacted: Private data will be replaced: rows that differ in nothing else are then the same.

    Raises:
        DataError: The rows cannot make a dataset: one label only, a class with one row, spellings of a label that
            differ in case, nothing but duplicates, or locked rows that nobody could answer.
    """
    usable = [row for row in rows if row.problem is None]
    locked = [row for row in test_rows or () if row.problem is None]
    seen = [redact_row(row) for row in usable] if redacted else usable
    copies = _copies(seen)
    distinct = [row for row in usable if row.number not in copies]
    prompts = [row.prompt for row in seen]
    clusters = near_clusters(prompts)
    check_rows(rows, usable, distinct, clusters)
    if test_rows is not None:
        check_locked(usable, test_rows, locked, count_tokens, max_tokens)
    return DataFindings(
        rows=len(rows),
        labels=dict(sorted(Counter(row.label for row in usable if row.label is not None).items())),
        exact_duplicates=tuple(sorted(copies)),
        conflicting=_conflicting(seen),
        clusters=tuple(tuple(usable[i].number for i in cluster) for cluster in clusters),
        near_test=tuple(usable[i].number for i in _near(usable, locked, redacted)) if locked else (),
        private=tuple(finding for row in usable for finding in _private(row)),
        too_long=tuple(row.number for row in usable if count_tokens and count_tokens(row) > max_tokens),
        problems=tuple(row.problem for row in rows if row.problem is not None),
    )


def doubt(
    rows: Sequence[Row], findings: DataFindings, decision: CurationDecision, seed: int, test_rows: Sequence[Row] | None
) -> DataFindings:
    """The findings with labels that look wrong, judged without and about none of the rows that will be locked.

    Which rows those are does not depend on what is left out of training, so a first decision is enough to know.

    Args:
        rows: From `read_rows`.
        findings: From `find`.
        decision: The curator's on these findings.
        seed: Of the split.
        test_rows: The locked rows of a separate test file; then all of `rows` are judged.
    """
    locked = {row.number for row in split_rows(rows, findings, decision, seed, test_rows)["test"]}
    chosen = judged(rows, locked if test_rows is None else (), decision)
    texts, labels = [row.prompt for row in chosen], [str(row.label) for row in chosen]
    suspicious = find_suspicious([row.number for row in chosen], texts, labels)
    return findings.model_copy(update={"suspicious": suspicious})


def split(
    rows: Sequence[Row],
    findings: DataFindings,
    decision: CurationDecision,
    seed: int,
    test_rows: Sequence[Row] | None = None,
) -> dict[SplitName, list[Row]]:
    """Carry out the curator's decision: drop, redact, and divide by group, cluster and label. See `split_rows`."""
    return split_rows(rows, findings, decision, seed, test_rows)


def report(findings: DataFindings, decision: CurationDecision, lengths: dict[str, float]) -> CurationReport:
    """What was done to the rows, for the dataset's card.

    Args:
        findings: What was found.
        decision: What was decided.
        lengths: From `token_lengths`.
    """
    gone = set(decision.drop) | {issue.row for issue in findings.problems}
    reasons = {issue.row: f"{issue.field}: {issue.reason}" for issue in findings.problems} | decision.drop
    return CurationReport(
        rows_read=findings.rows,
        rows_kept=findings.rows - len(gone),
        exact_duplicates=len(findings.exact_duplicates),
        near_duplicate_clusters=len(findings.clusters),
        near_duplicates_of_test=len(findings.near_test),
        conflicting_labels=len(findings.conflicting),
        private=tuple(_outcome(finding, decision) for finding in findings.private),
        suspicious=findings.suspicious,
        dropped=dict(sorted(reasons.items())),
        reasons=decision.reasons,
        token_lengths=lengths,
    )


def _outcome(finding: PrivateFinding, decision: CurationDecision) -> PrivateFinding:
    if finding.row in decision.drop:
        return finding.model_copy(update={"action": "rejected"})
    return finding.model_copy(update={"action": "redacted"}) if finding.row in decision.redact else finding


def token_lengths(counts: Sequence[int]) -> dict[str, float]:
    """Mean, p50, p95 and max of the rows' lengths in tokens, for the report."""
    if not counts:
        return {}
    p50, p95 = np.percentile(counts, [50, 95])
    return {"mean": round(float(np.mean(counts)), 1), "p50": float(p50), "p95": float(p95), "max": float(max(counts))}


def write_rows(rows: Sequence[Row]) -> bytes:
    """A split as JSON lines, in the order given. Whatever splits lines, splits it into rows."""
    lines = (
        {"id": row.id, "row": row.number, "messages": list(row.messages), "label": row.label, "group": row.group}
        | ({} if row.rejected is None else {"rejected": row.rejected})
        | ({} if row.good is None else {"good": row.good})
        for row in rows
    )
    text = "".join(canonical_json(line).decode() + "\n" for line in lines)
    # JSON leaves these as they are, but str.splitlines breaks lines at them.
    for char in "\x85\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode()


def parse_rows(data: bytes) -> list[Row]:
    """The rows that `write_rows` wrote."""
    values = [json.loads(line) for line in data.split(b"\n") if line]
    return [
        Row(
            value["row"],
            tuple(value["messages"]),
            value["label"],
            value["group"],
            rejected=value.get("rejected"),
            good=value.get("good"),
        )
        for value in values
    ]


def locked_digest(rows: Sequence[Row]) -> str:
    """The content hash of locked rows; neither their order nor their numbers matter."""
    return digest_json(sorted(digest_json([list(row.messages), row.label, *row.liking]) for row in rows))


# ---------------------------------------------------------------- facts


def _copies(rows: Sequence[Row]) -> set[int]:
    keys = (
        (normalise(row.prompt), row.label if row.label is not None else normalise(row.answer), row.liking)
        for row in rows
    )
    return {rows[i].number for group in exact_groups(keys) for i in group[1:]}


def _near(rows: Sequence[Row], locked: Sequence[Row], redacted: bool) -> list[int]:
    """Positions of rows that say nearly the same as a locked one, as they are or without their private data."""
    found = set(near_any([row.prompt for row in rows], [row.prompt for row in locked]))
    if redacted:
        without = ([redact_row(row).prompt for row in part] for part in (rows, locked))
        found |= set(near_any(*without))
    return sorted(found)


def _conflicting(rows: Sequence[Row]) -> tuple[int, ...]:
    # Only labels conflict; two good answers to one question are no contradiction.
    labelled = [row for row in rows if row.label is not None]
    groups = exact_groups(normalise(row.prompt) for row in labelled)
    torn = [group for group in groups if len({labelled[i].label for i in group}) > 1]
    return tuple(sorted(labelled[i].number for group in torn for i in group))


def _private(row: Row) -> list[PrivateFinding]:
    # Nothing has been done about it yet, so it is allowed so far; `report` says what became of it.
    found = []
    for index, message in enumerate(row.messages):
        if message["role"] == "system" or (row.label is not None and index == len(row.messages) - 1):
            continue
        field = "input" if row.label is not None else f"messages[{index}].content"
        kinds = dict.fromkeys(span.kind for span in find_private(message["content"]))
        found += [PrivateFinding(row=row.number, field=field, kind=kind, action="allowed") for kind in kinds]
    kinds = dict.fromkeys(span.kind for span in find_private(row.rejected or ""))
    found += [PrivateFinding(row=row.number, field="rejected", kind=kind, action="allowed") for kind in kinds]
    return found
