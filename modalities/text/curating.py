"""Text in curation: rows by the base's own tokenizer, those that do not fit, and labels that words speak against.

A `modalities.curating.Curating`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from tokenizers import Tokenizer

from moatelier.contracts import (
    Columns,
    CurationDecision,
    CurationReport,
    DataFindings,
    SplitName,
    TaskPlan,
)
from moatelier.errors import DataError
from modalities import catalogue
from modalities.curating import Material, Told, Watch
from modalities.halves import Half
from modalities.text import data

Rows = Sequence[data.Row]
MESSAGE_TOKENS = 5
"""About what a chat template adds to a message."""
MAX_TOKENS = 1024
"""The longest row for a base whose catalogue entry names no context."""
SPARE_TOKENS = 64
"""A row that is cut to fit is cut to this much less than the context: templates differ in what they add."""


def read(path: Path, name: str, plan: TaskPlan, half: Half, watch: Watch) -> list[data.Row]:
    """The rows of a table."""
    columns = plan.columns.value
    assert isinstance(columns, Columns)
    return data.read_rows(path, name, plan.kind.value, columns)


def check(material: Material) -> None:
    """See `data.check`."""
    data.check(material.rows, material.test_rows)


def needs(material: Material) -> tuple[str, ...]:
    """None: the base is enough."""
    return ()


def probing(material: Material) -> Told:
    """Nothing: the pace is that of tokens."""
    return {}


def preflight(material: Material) -> float:
    """Mean tokens a row; refuses rows that do not fit before anybody is asked to approve.

    Raises:
        DataError: A row is longer than the base's context, and it may not be dropped or cannot be cut. Rows of a
            test file are never dropped or cut.
    """
    plan, rows, test_rows = material.plan, material.rows, material.test_rows or []
    count, context = token_counter(plan.base.value), _context(plan)
    lengths, test_lengths = [count(row) for row in rows], [count(row) for row in test_rows]
    _refuse_long(plan, test_rows, test_lengths, "Shorten them.")
    if plan.too_long.value == "refuse":
        offers = "Shorten them, or say 'drop rows that are too long' or 'truncate rows that are too long'."
        _refuse_long(plan, rows, lengths, offers)
    if plan.too_long.value == "truncate":
        for row, length in zip(rows, lengths, strict=True):
            if length > context:
                data.shorten(row, count, context - SPARE_TOKENS)
    answers = 2 if plan.kind.value in ("preference", "thumbs") else 1  # each row has another answer beside its own
    return answers * mean(lengths + test_lengths)


def questions(material: Material) -> Told | None:
    """None: the tokenizer tells enough."""
    return None


def find(material: Material, told: Told | None) -> DataFindings:
    """See `data.find`."""
    plan = material.plan
    return data.find(
        material.rows,
        test_rows=material.test_rows,
        count_tokens=token_counter(plan.base.value),
        max_tokens=_context(plan),
        redacted=plan.private.value == "redact",
    )


def doubts(material: Material, findings: DataFindings, decision: CurationDecision) -> Told | None:
    """None: a linear model on words is enough."""
    return None


def doubt(material: Material, findings: DataFindings, decision: CurationDecision, told: Told | None) -> DataFindings:
    """See `data.doubt`."""
    return data.doubt(material.rows, findings, decision, material.plan.seed, material.test_rows)


def split(material: Material, findings: DataFindings, decision: CurationDecision) -> dict[SplitName, list[data.Row]]:
    """Divide, and cut what is to be cut; rows of a test file stay as they are."""
    plan = material.plan
    splits = data.split(material.rows, findings, decision, plan.seed, test_rows=material.test_rows)
    count, room, cut = token_counter(plan.base.value), _context(plan) - SPARE_TOKENS, set(decision.shorten)
    for name in splits if material.test_rows is None else splits.keys() - {"test"}:
        splits[name] = [data.shorten(row, count, room) if row.number in cut else row for row in splits[name]]
    return splits


def report(material: Material, findings: DataFindings, decision: CurationDecision, train: Rows) -> CurationReport:
    """With the lengths of the training rows."""
    count = token_counter(material.plan.base.value)
    return data.report(findings, decision, data.token_lengths([count(row) for row in train]))


def card_fields(material: Material, findings: DataFindings) -> dict[str, Any]:
    """None of its own."""
    return {}


def token_counter(base: str) -> Callable[[data.Row], int]:
    """Counts a row's tokens, prompt and longer answer, by the base's own tokenizer; needs no torch."""
    tokenizer = Tokenizer.from_file(str(catalogue.folder(base) / "tokenizer.json"))

    def count(row: data.Row) -> int:
        *before, last = [len(tokenizer.encode(turn["content"]).ids) + MESSAGE_TOKENS for turn in row.messages]
        other = 0 if row.rejected is None else len(tokenizer.encode(row.rejected).ids) + MESSAGE_TOKENS
        return sum(before) + max(last, other)

    return count


def _context(plan: TaskPlan) -> int:
    return catalogue.get(plan.base.value).context or MAX_TOKENS


def _refuse_long(plan: TaskPlan, rows: Rows, lengths: Sequence[int], remedy: str) -> None:
    context = _context(plan)
    long = [(length, row) for length, row in zip(lengths, rows, strict=True) if length > context]
    if not long:
        return
    length, row = long[0]
    raise DataError(
        f"{len(long)} of {len(rows)} rows do not fit into the {context} tokens that {plan.base.value} reads; "
        f"the first has {length}.",
        where=row.place,
        remedy=remedy,
    )
