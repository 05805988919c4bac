"""The splits of text rows: those of `modalities.splits`, after private data was taken out."""

from collections.abc import Sequence
from dataclasses import replace

from moatelier.contracts import CurationDecision, DataFindings, SplitName
from modalities.splits import divide, is_kept
from modalities.text.private import redact
from modalities.text.rows import Row


def split_rows(
    rows: Sequence[Row],
    findings: DataFindings,
    decision: CurationDecision,
    seed: int,
    test_rows: Sequence[Row] | None = None,
) -> dict[SplitName, list[Row]]:
    """Divide the rows that are kept, see `divide`. Rows to redact are redacted.

    Raises:
        DataError: A split would stay empty.
    """
    redacted = set(decision.redact)
    kept = [redact_row(row) if row.number in redacted else row for row in rows if is_kept(row, decision)]
    return divide(kept, findings.clusters, decision, seed, test_rows)


def redact_row(row: Row) -> Row:
    """The row without private data. A label is never touched: it is one of a known set."""
    last = len(row.messages) - 1
    messages = tuple(
        message if row.label is not None and index == last else {**message, "content": redact(message["content"])}
        for index, message in enumerate(row.messages)
    )
    return replace(row, messages=messages, rejected=None if row.rejected is None else redact(row.rejected))
