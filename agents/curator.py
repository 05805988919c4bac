"""The curator: from facts about the rows to what is dropped, redacted, left out of training, and how rows are split."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from moatelier.contracts import CurationDecision, DataFindings, SplitName, Suspicion, TaskPlan
from moatelier.errors import DataError

MIN_CLASS_ROWS = 5
MIN_CHAT_ROWS = 10
STRONG_ODDS = 20.0
"""A label is left out of training when another one is at least this many times as likely (out of fold)."""
STRONG_PROBABILITY = 0.5
MAX_LEFT_OUT = 0.05
"""At most this share of the rows: a model that doubts more than that is itself doubtful."""

OWN_TEST: dict[SplitName, float] = {"train": 0.6, "dev": 0.1, "select": 0.1, "test": 0.2}
SEPARATE_TEST: dict[SplitName, float] = {"train": 0.8, "dev": 0.1, "select": 0.1}


def decide(
    findings: DataFindings, plan: TaskPlan, separate_test: bool, labels: Mapping[int, str | None] | None = None
) -> CurationDecision:
    """Decide what happens to the rows of the training file.

    Args:
        findings: What the data report says of the rows.
        plan: The approved plan, with its policies on private data and long rows.
        separate_test: Whether the locked rows come from a file of their own.
        labels: Row number -> label, for counting classes after cleaning. Without it classes are counted before.

    Raises:
        DataError: A row is too long and the plan refuses that, or a class has fewer than five rows after cleaning.
    """
    if findings.too_long and plan.too_long.value == "refuse":
        raise _too_long(findings)
    drop = _dropped(findings, plan)
    _check_enough(findings, plan, drop, labels)
    left_out = _left_out_of_train(findings, drop, labels)
    redact: tuple[int, ...] = ()
    if plan.private.value == "redact":
        redact = tuple(sorted({finding.row for finding in findings.private} - drop.keys()))
    return CurationDecision(
        drop=dict(sorted(drop.items())),
        left_out_of_train=left_out,
        redact=redact,
        shorten=_shortened(findings, plan, drop),
        fractions=dict(SEPARATE_TEST if separate_test else OWN_TEST),
        reasons=tuple(_reasons(findings, plan, separate_test, drop, left_out, redact)),
    )


def _too_long(findings: DataFindings) -> DataError:
    return DataError(
        f"{_rows(len(findings.too_long))} would lose trained tokens, because they do not fit into the context.",
        where=f"row {_listed(findings.too_long)}",
        remedy='Shorten them, or say "drop rows that are too long" or "truncate long rows".',
    )


def _dropped(findings: DataFindings, plan: TaskPlan) -> dict[int, str]:
    """Row -> why it goes; the first reason that applies is the one that is told."""
    drop: dict[int, str] = {}

    def because(rows: Iterable[int], reason: str) -> None:
        for row in rows:
            drop.setdefault(row, reason)

    for problem in findings.problems:
        because([problem.row], f"cannot be used: {problem.field}: {problem.reason}")
    because(findings.conflicting, "the same input also stands with another target, and nobody can say which is right")
    because(findings.near_test, "says nearly the same as a locked test row")
    because(findings.exact_duplicates, "repeats an earlier row")
    if plan.too_long.value == "drop":
        because(findings.too_long, "does not fit into the context")
    if plan.private.value == "reject":
        for finding in findings.private:
            because([finding.row], f"holds private data ({finding.kind})")
    return drop


def _shortened(findings: DataFindings, plan: TaskPlan, drop: Mapping[int, str]) -> tuple[int, ...]:
    return tuple(row for row in findings.too_long if row not in drop) if plan.too_long.value == "truncate" else ()


def _check_enough(
    findings: DataFindings, plan: TaskPlan, drop: Mapping[int, str], labels: Mapping[int, str | None] | None
) -> None:
    if plan.kind.value == "chat":
        kept = findings.rows - len(drop)
        if kept < MIN_CHAT_ROWS:
            raise DataError(
                f"Only {_rows(kept)} of {findings.rows} are left after cleaning; at least {MIN_CHAT_ROWS} are needed.",
                where=", ".join(f"{count} {why}" for why, count in Counter(drop.values()).most_common(3)),
                remedy="Add rows, or relax what is left out.",
            )
        return
    counts = _class_counts(findings, drop, labels)
    if len(counts) < 2:
        raise DataError(
            "After cleaning, all rows have the same label.",
            where=f"column {plan.columns.value.told}",
            remedy="Choose another target column or add rows with other labels.",
        )
    small = {label: count for label, count in counts.items() if count < MIN_CLASS_ROWS}
    if small:
        raise DataError(
            f"{'A class has' if len(small) == 1 else f'{len(small)} classes have'} fewer than "
            f"{MIN_CLASS_ROWS} rows after cleaning: "
            + _listed([f"{label} ({count})" for label, count in sorted(small.items(), key=lambda item: item[1])])
            + ".",
            where=f"column {plan.columns.value.told}",
            remedy="Add rows of these classes, merge them with others, or remove them from the file.",
        )


def _class_counts(
    findings: DataFindings, drop: Mapping[int, str], labels: Mapping[int, str | None] | None
) -> dict[str, int]:
    if labels is None:
        return dict(findings.labels)
    counts = dict.fromkeys(findings.labels, 0)
    for row, label in labels.items():
        if label is not None and row not in drop:
            counts[label] = counts.get(label, 0) + 1
    return counts


def _left_out_of_train(
    findings: DataFindings, drop: Mapping[int, str], labels: Mapping[int, str | None] | None
) -> tuple[int, ...]:
    """Rows whose label is very likely wrong. They stay in the other splits: a score must not choose its own rows."""
    strong = [each for each in findings.suspicious if each.row not in drop and is_strong(each)]
    strong.sort(key=lambda each: (-each.loss, each.row))
    counts = _class_counts(findings, drop, labels)
    chosen: list[int] = []
    taken: Counter[str] = Counter()
    for each in strong[: int(MAX_LEFT_OUT * findings.rows)]:
        # A rare class needs its rows more than it suffers from a few wrong ones.
        if taken[each.label] + 1 <= max(counts.get(each.label, 0) - 2 * MIN_CLASS_ROWS, 0):
            taken[each.label] += 1
            chosen.append(each.row)
    return tuple(sorted(chosen))


def is_strong(suspicion: Suspicion) -> bool:
    """Whether another label is both likely and far likelier than the row's own."""
    odds = suspicion.probability * math.exp(min(suspicion.loss, 50.0))
    return suspicion.probability >= STRONG_PROBABILITY and odds >= STRONG_ODDS


def _reasons(
    findings: DataFindings,
    plan: TaskPlan,
    separate_test: bool,
    drop: Mapping[int, str],
    left_out: tuple[int, ...],
    redact: tuple[int, ...],
) -> Iterable[str]:
    yield f"{_rows(findings.rows - len(drop))} of {findings.rows} are kept."
    causes = Counter(why.split(":")[0].split(" (")[0] for why in drop.values())
    for why, count in causes.most_common():
        yield (
            f"{_rows(count)} left out, each because it {why}."
            if not why.startswith("the ")
            else f"{_rows(count)} left out: {why}."
        )
    if findings.clusters:
        yield (
            f"{len(findings.clusters)} groups of nearly equal rows are each kept within one split, so that no "
            f"test row is known from training."
        )
    if findings.private:
        rows = len({finding.row for finding in findings.private})
        action = {
            "redact": f"replaced by placeholders in {_rows(len(redact))}",
            "reject": "left out with their rows",
            "allow": "kept, as the plan allows",
        }
        yield f"Private data was found in {_rows(rows)}; it is {action[plan.private.value]}."
    if findings.suspicious:
        yield (
            f"{_rows(len(findings.suspicious))} with a doubtful label; {len(left_out)} with strong evidence are "
            f"kept out of training but may be tested on."
        )
    if shortened := _shortened(findings, plan, drop):
        yield f"The questions of {_rows(len(shortened))} are cut to fit into the context, as the plan says."
    shares = (
        "80/10/10 % into train, dev and select; the test file is locked"
        if separate_test
        else "60/10/10/20 % into train, dev, select and locked test"
    )
    yield f"Rows are split {shares}."


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


def _listed(items: Iterable[object], limit: int = 10) -> str:
    texts = [str(item) for item in items]
    return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more" if len(texts) > limit else "")
