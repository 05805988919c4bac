"""Text in curation: rows by the base's own tokenizer, those that do not fit, and labels that words speak against.

A `modalities.curating.Curating`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
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
HEADER_TOKENS = 3
"""About what opens a turn in a chat template."""
STAND = 64
"""Rows whose lengths stand for those of all, at most."""
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
    """How long the rows are, by some that stand for all; see `training.tryout`."""
    rows = [row for row in material.rows if row.problem is None]
    measure = _measure(material.plan.base.value)
    told = sorted(measure(row) for row in rows)
    kept = [each for each in told if each[0] <= _most_tokens(material.plan)] or told[:1]
    stand = [kept[(2 * place + 1) * len(kept) // (2 * STAND)] for place in range(STAND)] if len(kept) > STAND else kept
    firsts = {row.messages[0]["content"] for row in rows}
    shared = token_counts(material.plan.base.value)(firsts.pop()) + HEADER_TOKENS if len(firsts) == 1 else 0
    # Beside its own answer each of these rows has another, with the same prompt.
    answers = 2 if material.plan.kind.value in ("preference", "thumbs") else 1
    told_rows = [[answers * tokens, answers * learnt] for tokens, learnt in stand]
    return {"lengths": {"rows": told_rows, "shared": shared, "longest": kept[-1][0]}}


def _measure(base: str) -> Callable[[data.Row], tuple[int, int]]:
    """A row's tokens, and how many of them are trained: the assistant's and those that end its turns."""
    count = token_counts(base)

    def measure(row: data.Row) -> tuple[int, int]:
        counts = [(message["role"], count(message["content"])) for message in row.messages]
        learnt = [tokens - MESSAGE_TOKENS + 1 for role, tokens in counts if role == "assistant"]
        return sum(tokens for _, tokens in counts), sum(learnt)

    return measure


def preflight(material: Material) -> float:
    """The share of the rows that is trained on; refuses rows that do not fit before anybody is asked to approve.

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
    return sum(length <= _most_tokens(plan) for length in lengths) / max(1, len(lengths))


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
    if plan.limits and plan.limits.tokens:
        splits["train"] = _short(plan, splits["train"], count)
    return splits


def _short(plan: TaskPlan, rows: Rows, count: Callable[[data.Row], int]) -> list[data.Row]:
    """The rows that the plan's limit leaves to be trained on."""
    kept = [row for row in rows if count(row) <= _most_tokens(plan)]
    if not kept:
        raise DataError(
            f"None of the {len(rows)} training rows has at most {_most_tokens(plan)} tokens.",
            where="limits.tokens",
            remedy="Allow longer rows.",
        )
    return kept


def report(material: Material, findings: DataFindings, decision: CurationDecision, train: Rows) -> CurationReport:
    """With the lengths of the training rows."""
    count = token_counter(material.plan.base.value)
    return data.report(findings, decision, data.token_lengths([count(row) for row in train]))


def card_fields(material: Material, findings: DataFindings) -> dict[str, Any]:
    """None of its own."""
    return {}


def token_counter(base: str) -> Callable[[data.Row], int]:
    """Counts a row's tokens, prompt and longer answer, by the base's own tokenizer; needs no torch."""
    counts = token_counts(base)

    def count(row: data.Row) -> int:
        *before, last = [counts(turn["content"]) for turn in row.messages]
        return sum(before) + max(last, 0 if row.rejected is None else counts(row.rejected))

    return count


def token_counts(base: str) -> Callable[[str], int]:
    """Counts the tokens of a message with what a chat template adds to it."""
    tokenizer = Tokenizer.from_file(str(catalogue.folder(base) / "tokenizer.json"))
    return lambda content: len(tokenizer.encode(content).ids) + MESSAGE_TOKENS


def _most_tokens(plan: TaskPlan) -> int:
    """Of a row that is trained on."""
    most = plan.limits.tokens if plan.limits else None
    return min(_context(plan), most or _context(plan))


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
