"""The curator: from facts about the rows to what is dropped, redacted, left out of training, and how rows are split."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from agents import quality
from moatelier.contracts import CANDIDATES, CurationDecision, DataFindings, SplitName, Suspicion, TaskPlan
from moatelier.errors import DataError

MIN_CLASS_ROWS = 5
MIN_FREE_ROWS = 10
"""Of conversations and of transcripts, which have no classes."""
MIN_PAIRS = 2 * CANDIDATES
"""Of pictures with captions: those that are trained on fill up what a picture is sought among."""
STRONG_ODDS = 20.0
"""A label is left out of training when another one is at least this many times as likely (out of fold)."""
STRONG_PROBABILITY = 0.5
MAX_LEFT_OUT = 0.05
"""At most this share of the rows: a model that doubts more than that is itself doubtful, and a fault that more rows
have than that is how these data are."""

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
    words = quality.words(findings)
    if words is quality.RECORDINGS:
        return DataError(
            f"{words.counted(len(findings.too_long))} do not fit into {quality.limit(findings)}, or say more than "
            "anyone speaks in it.",
            where=f"row {_listed(findings.too_long)}",
            remedy='Cut them together with their transcripts, or say "drop recordings that are too long".',
        )
    return DataError(
        f"{words.counted(len(findings.too_long))} would lose trained tokens, because they do not fit into the context.",
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
    words = quality.words(findings)
    for rows, reason in quality.unfit(findings):
        because(rows, reason)
    because(findings.conflicting, words.torn)
    because(findings.near_test, words.near)
    because(findings.exact_duplicates, f"repeats an earlier {words.noun}")
    if plan.too_long.value == "drop":
        because(findings.too_long, f"does not fit into {quality.limit(findings)}")
    if plan.private.value == "reject":
        for finding in findings.private:
            because([finding.row], f"holds private data ({finding.kind})")
    return drop


def _shortened(findings: DataFindings, plan: TaskPlan, drop: Mapping[int, str]) -> tuple[int, ...]:
    return tuple(row for row in findings.too_long if row not in drop) if plan.too_long.value == "truncate" else ()


def _check_enough(
    findings: DataFindings, plan: TaskPlan, drop: Mapping[int, str], labels: Mapping[int, str | None] | None
) -> None:
    words = quality.words(findings)
    if plan.kind.value != "classification":
        kept, least = findings.rows - len(drop), MIN_PAIRS if plan.kind.value == "retrieval" else MIN_FREE_ROWS
        if kept < least:
            raise DataError(
                f"Only {words.counted(kept)} of {findings.rows} are left after cleaning; at least {least} are needed.",
                where=", ".join(f"{count} {why}" for why, count in Counter(drop.values()).most_common(3)),
                remedy=f"Add {words.noun}s, or relax what is left out.",
            )
        return
    counts = _class_counts(findings, drop, labels)
    if len(counts) < 2:
        raise DataError(
            f"After cleaning, all {words.noun}s have the same label.",
            where=quality.place(plan),
            remedy=f"Choose another target column or add {words.noun}s with other labels.",
        )
    small = {label: count for label, count in counts.items() if count < MIN_CLASS_ROWS}
    if small:
        raise DataError(
            f"{'A class has' if len(small) == 1 else f'{len(small)} classes have'} fewer than "
            f"{MIN_CLASS_ROWS} {words.noun}s after cleaning: "
            + _listed([f"{label} ({count})" for label, count in sorted(small.items(), key=lambda item: item[1])])
            + ".",
            where=quality.place(plan),
            remedy=f"Add {words.noun}s of these classes, merge them with others, or remove them from the "
            f"{words.source if plan.columns.value.told is None else 'file'}.",
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
    """Rows that would teach something wrong. They stay in the other splits: a score must not choose its own rows."""
    strong = [each for each in findings.suspicious if each.row not in drop and is_strong(each)]
    strong.sort(key=lambda each: (-each.loss, each.row))
    doubted: list[tuple[int, str | None]] = [
        (each.row, each.label) for each in strong[: int(MAX_LEFT_OUT * findings.rows)]
    ]
    doubted += [(row, (labels or {}).get(row)) for row in _misleading(findings, drop)]
    counts = _class_counts(findings, drop, labels)
    chosen: list[int] = []
    taken: Counter[str] = Counter()
    for row, label in doubted:
        # A rare class needs its rows more than it suffers from a few wrong ones.
        if label is None or taken[label] + 1 <= max(counts.get(label, 0) - 2 * MIN_CLASS_ROWS, 0):
            taken[label or ""] += 1
            chosen.append(row)
    return tuple(sorted({*chosen}))


def _misleading(findings: DataFindings, drop: Mapping[int, str]) -> list[int]:
    """Rows with a fault that few of them have."""
    few = max(1.0, MAX_LEFT_OUT * findings.rows)
    return [row for rows, _ in quality.misleading(findings) if len(rows) <= few for row in rows if row not in drop]


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
    words = quality.words(findings)
    yield f"{words.counted(findings.rows - len(drop))} of {findings.rows} are kept."
    causes = Counter(why.split(":")[0].split(" (")[0] for why in drop.values())
    for why, count in causes.most_common():
        yield (
            f"{words.counted(count)} left out, each because it {why}."
            if not why.startswith("the ")
            else f"{words.counted(count)} left out: {why}."
        )
    if findings.clusters:
        yield (
            f"{len(findings.clusters)} groups of {words.same} are each kept within one split, so that no "
            f"test {words.noun} is known from training."
        )
    if findings.private:
        rows = len({finding.row for finding in findings.private})
        action = {
            "redact": f"replaced by placeholders in {words.counted(len(redact))}",
            "reject": "left out with their rows",
            "allow": "kept, as the plan allows",
        }
        yield f"Private data was found in {words.counted(rows)}; it is {action[plan.private.value]}."
    if findings.suspicious:
        yield (
            f"{words.counted(len(findings.suspicious))} with a doubtful label; "
            f"{len({each.row for each in findings.suspicious} & {*left_out})} with strong evidence are "
            f"kept out of training but may be tested on."
        )
    for odd, why in quality.misleading(findings):
        if apart := len({*odd} & {*left_out}):
            yield f"{words.counted(apart)} {why} {_are(apart)} kept out of training but may be tested on."
        elif kept := len({*odd} - drop.keys()):
            yield f"{words.counted(kept)} {why} stay: these data are so, or their class is too rare to do without."
    if shortened := _shortened(findings, plan, drop):
        yield f"The questions of {words.counted(len(shortened))} are cut to fit into the context, as the plan says."
    shares = (
        "80/10/10 % into train, dev and select; the test file is locked"
        if separate_test
        else "60/10/10/20 % into train, dev, select and locked test"
    )
    yield f"{words.noun.capitalize()}s are split {shares}."


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _listed(items: Iterable[object], limit: int = 10) -> str:
    texts = [str(item) for item in items]
    return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more" if len(texts) > limit else "")
