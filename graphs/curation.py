"""Carries out what the curator decides: reads the rows, reports on them, splits them, locks the test rows."""

from collections.abc import Callable
from statistics import mean

from tokenizers import Tokenizer

from evals import vault
from evals.statistics import LOOKS
from graphs.state import LifecycleState
from moatelier.contracts import (
    Columns,
    CurationDecision,
    DataFindings,
    DatasetCard,
    SplitInfo,
    SplitName,
    TaskPlan,
)
from moatelier.errors import DataError
from modalities import catalogue
from modalities.text import data
from store import artifacts, datasets, looks

Rows = list[data.Row]
MESSAGE_TOKENS = 5
"""About what a chat template adds to a message."""
MAX_TOKENS = 1024
"""The longest row for a base whose catalogue entry names no context."""
SPARE_TOKENS = 64
"""A row that is cut to fit is cut to this much less than the context: templates differ in what they add."""


def token_counter(base: str) -> Callable[[data.Row], int]:
    """Counts a row's tokens, prompt and answer, by the base's own tokenizer; needs no torch."""
    tokenizer = Tokenizer.from_file(str(catalogue.folder(base) / "tokenizer.json"))
    return lambda row: sum(len(tokenizer.encode(m["content"]).ids) + MESSAGE_TOKENS for m in row.messages)


def _context(base: str) -> int:
    return catalogue.get(base).context or MAX_TOKENS


def read(state: LifecycleState, plan: TaskPlan) -> tuple[Rows, Rows | None]:
    """The rows of the training file and of the test file."""

    def of(file_id: str) -> Rows:
        file = datasets.get_file(state["project"], file_id)
        path, columns = datasets.file_path(state["project"], file_id), plan.columns.value
        assert isinstance(columns, Columns)
        return data.read_rows(path, file.name, plan.kind.value, columns)

    return of(plan.train_file), of(plan.test_file) if plan.test_file else None


def check(state: LifecycleState, plan: TaskPlan) -> None:
    """Refuse rows that cannot make a dataset before a base is fetched for them. Raises DataError."""
    data.check(*read(state, plan))


def preflight(state: LifecycleState, plan: TaskPlan) -> float:
    """Mean tokens a row; refuses rows that do not fit before anybody is asked to approve.

    Raises:
        DataError: A row is longer than the base's context, and it may not be dropped or cannot be cut. Rows of a
            test file are never dropped or cut.
    """
    rows, test_rows = read(state, plan)
    count, context = token_counter(plan.base.value), _context(plan.base.value)
    lengths, test_lengths = [count(row) for row in rows], [count(row) for row in test_rows or []]
    _refuse_long(plan, test_rows or [], test_lengths, context, "Shorten them.")
    if plan.too_long.value == "refuse":
        offers = "Shorten them, or say 'drop rows that are too long' or 'truncate rows that are too long'."
        _refuse_long(plan, rows, lengths, context, offers)
    if plan.too_long.value == "truncate":
        for row, length in zip(rows, lengths, strict=True):
            if length > context:
                data.shorten(row, count, context - SPARE_TOKENS)
    return mean(lengths + test_lengths)


def _refuse_long(plan: TaskPlan, rows: Rows, lengths: list[int], context: int, remedy: str) -> None:
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


def find(state: LifecycleState, plan: TaskPlan) -> tuple[Rows, Rows | None, DataFindings]:
    """Read the rows and report everything the curator decides on."""
    rows, test_rows = read(state, plan)
    counter, context = token_counter(plan.base.value), _context(plan.base.value)
    redacted = plan.private.value == "redact"
    found = data.find(rows, test_rows=test_rows, count_tokens=counter, max_tokens=context, redacted=redacted)
    return rows, test_rows, found


def doubt(
    plan: TaskPlan, rows: Rows, test_rows: Rows | None, findings: DataFindings, decision: CurationDecision
) -> DataFindings:
    """The findings with doubtful labels, for which the rows that will be locked are neither used nor named."""
    return data.doubt(rows, findings, decision, plan.seed, test_rows)


def carry_out(
    state: LifecycleState,
    plan: TaskPlan,
    rows: Rows,
    test_rows: Rows | None,
    findings: DataFindings,
    decision: CurationDecision,
) -> DatasetCard:
    """Split as decided, store the splits, lock the test rows, and write the card.

    Raises:
        LooksExhausted: These very rows have been locked before and had all their looks.
    """
    counter = token_counter(plan.base.value)
    splits = data.split(rows, findings, decision, plan.seed, test_rows=test_rows)
    for name in splits if test_rows is None else splits.keys() - {"test"}:
        splits[name] = _shortened(splits[name], decision, counter, _context(plan.base.value) - SPARE_TOKENS)
    locked = data.locked_digest(splits["test"])
    looks.need_look(state["project"], locked, LOOKS)
    vault.lock(data.write_rows(splits["test"]), locked)
    infos: dict[SplitName, SplitInfo] = {}
    for name, split in splits.items():
        artifact = None if name == "test" else artifacts.put_bytes(data.write_rows(split))
        infos[name] = SplitInfo(rows=len(split), artifact=artifact, labels=_labels(split))
    card = DatasetCard(
        name=plan.name,
        source=datasets.get_file(state["project"], plan.train_file).sha256,
        test_source=datasets.get_file(state["project"], plan.test_file).sha256 if plan.test_file else None,
        licence="as given by the uploader",
        modality=plan.modality.value,
        kind=plan.kind.value,
        columns=plan.columns.value,
        labels=tuple(sorted(findings.labels)),
        splits=infos,
        locked=locked,
        report=data.report(findings, decision, data.token_lengths([counter(row) for row in splits["train"]])),
    )
    datasets.add_card(state["project"], card, state["task"])
    return card


def _shortened(rows: Rows, decision: CurationDecision, counter: Callable[[data.Row], int], room: int) -> Rows:
    cut = set(decision.shorten)
    return [data.shorten(row, counter, room) if row.number in cut else row for row in rows]


def _labels(rows: Rows) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        if row.label is not None:
            counts[row.label] = counts.get(row.label, 0) + 1
    return dict(sorted(counts.items()))
