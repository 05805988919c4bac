"""What the wrong answers to dev rows say: wrong labels, labels that overlap, a wrong form, no end."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from agents.curves import LEARNT, typical
from agents.shares import chance_of, wilson
from agents.trial import Evidence, Trial
from moatelier.contracts import DevRow, Finding, MetricName

STOPS_ENOUGH = 0.9
"""Below this natural-stop rate on dev the adapter has not learnt to stop."""
SHIFT = 0.15
FEW = 0.05
"""A share of faults whose lower bound is below this is what data are like."""
CONFUSED = 0.1
"""Two labels are confused when the lower bound of their rows that are taken for each other is at least this."""
BY_LUCK = 0.01
"""How seldom a pair has so many of the errors where errors fall anywhere, over all pairs."""
LEARNT_BY_HEART = 0.5
"""Training loss below this share of dev loss: confident errors on dev rows are overfitting's, not the labels'."""
SHOWN = 8
"""Rows that are named as evidence."""


def never_stops(trial: Trial) -> Finding | None:
    """Answers on dev that are cut at the token limit."""
    dev, rate = trial.dev, trial.dev.natural_stop_rate
    low, high = wilson(rate * dev.rows, dev.rows)
    if rate >= STOPS_ENOUGH or high > (1 + STOPS_ENOUGH) / 2:
        return None
    text = f"Only {rate:.0%} of the dev answers end by themselves; the stop token is not learnt."
    evidence: dict[str, float | str] = {"natural_stop_rate": rate, "low": low, "high": high}
    confidence = min(0.95, 0.6 + (STOPS_ENOUGH - rate))
    return Finding(
        kind="never_stops", confidence=confidence, evidence=evidence, text=text, ids=trial.told_by("dev", "train")
    )


def format_errors(trial: Trial, evidence: Evidence) -> Finding | None:
    """Answers that end and have not the form that is expected, against how often their content is right."""
    ended = [row for row in evidence.rows if row.stopped]
    if not ended:
        return _format_by_rate(trial)
    bad = [row for row in ended if not row.formed]
    meant = sum(row.meant for row in bad)
    low, high = wilson(len(bad), len(ended))
    if low < FEW or meant < len(bad) / 2:  # what is wrong in form and in content is not learnt, whatever its form
        return None
    content = sum(row.right or row.meant for row in ended) / len(ended)
    told: dict[str, float | str] = {
        "parse_rate": 1 - len(bad) / len(ended),
        "low": 1 - high,
        "high": 1 - low,
        "content_accuracy": content,
        "accuracy": sum(row.right for row in ended) / len(ended),
        "malformed_train_rows": float(len(evidence.malformed)),
    }
    text = (
        f"{len(bad)} of {len(ended)} dev answers have not the expected form, and {meant} of these say the right thing: "
        f"the content is right in {content:.0%}."
    )
    ids = (*trial.told_by("dev"), *_named(bad), *(f"row:{number}" for number in evidence.malformed[:SHOWN]))
    confidence = min(0.95, 0.6 + 0.3 * meant / len(bad) + low / 2)
    return Finding(kind="format_errors", confidence=confidence, evidence=told, text=text, ids=ids)


def _format_by_rate(trial: Trial) -> Finding | None:
    """Where no answers are kept: the share of answers that are no label, which says nothing of their content."""
    dev = trial.dev
    low, high = wilson(dev.format_error_rate * dev.rows, dev.rows)
    if low < FEW or dev.natural_stop_rate < STOPS_ENOUGH:
        return None
    text = f"{dev.format_error_rate:.0%} of the dev answers are none of the labels."
    evidence: dict[str, float | str] = {"parse_rate": 1 - dev.format_error_rate, "low": 1 - high, "high": 1 - low}
    return Finding(
        kind="format_errors", confidence=min(0.7, 0.4 + low), evidence=evidence, text=text, ids=trial.told_by("dev")
    )


def shifted(trial: Trial, metric: MetricName) -> Finding | None:
    """Dev and select are drawn alike; scores far apart mean that the splits are not alike."""
    dev, select = trial.dev, trial.select
    if metric not in dev.metrics or metric not in select.metrics:
        return None
    one, other = dev.metrics[metric], select.metrics[metric]
    apart = one.low > other.high or other.low > one.high
    if not apart or abs(one.point - other.point) < SHIFT:
        return None
    text = f"Dev ({one.point:.3f}) and select ({other.point:.3f}) are too far apart for two samples of the same rows."
    evidence: dict[str, float | str] = {"dev": one.point, "select": other.point}
    return Finding(kind="data_fault", confidence=0.5, evidence=evidence, text=text, ids=trial.told_by("dev", "select"))


def doubtful(trial: Trial, evidence: Evidence) -> Finding | None:
    """Dev rows that are wrong for a model which has learnt the rest: their labels are.

    Confident learning (Northcutt et al. 2021, arXiv 1911.00068): a row counts when the model is surer of another label
    than it is of that label on the rows that have it. It holds for a model that has learnt its rows without learning
    them by heart.
    """
    scored = [row for row in evidence.rows if row.loss is not None and row.sure is not None and row.formed]
    usual, dev_loss = typical(evidence.rows), trial.dev.loss
    if not scored or usual is None or usual > LEARNT or dev_loss is None:
        return None
    if trial.result.train_loss < LEARNT_BY_HEART * dev_loss:
        return None
    doubted = _doubted(scored)
    low, high = wilson(len(doubted), len(scored))
    if low < FEW:
        return None
    suspicious = evidence.card.report.suspicious if evidence.card else ()
    text = (
        f"Of {len(scored)} dev rows {len(doubted)} ({low:.0%} to {high:.0%}) have a label that the adapter, which has "
        "learnt the others, is sure is another one: labels are wrong."
    )
    told: dict[str, float | str] = {
        "doubted": float(len(doubted)),
        "of": float(len(scored)),
        "low": low,
        "high": high,
        "suspicious_rows": float(len(suspicious)),
    }
    ids = (*trial.told_by("dev", "train"), *_named(doubted), *(f"row:{each.row}" for each in suspicious[:SHOWN]))
    return Finding(kind="data_fault", confidence=min(0.95, 0.65 + 1.5 * low), evidence=told, text=text, ids=ids)


def _doubted(rows: Sequence[DevRow]) -> list[DevRow]:
    chances: dict[str, list[float]] = {}
    for row in rows:
        given = 0.0 if row.loss is None else row.loss
        chances.setdefault(row.truth, []).append(math.exp(-given))
    usual = {label: sum(found) / len(found) for label, found in chances.items()}
    return [row for row in rows if not row.right and (row.sure or 0.0) >= usual.get(row.answer, 1.0)]


def confused(trial: Trial) -> Finding | None:
    """Two labels that are taken for each other far more often than errors fall on a pair by luck."""
    cells = {(truth, answer): count for truth, answer, count in trial.dev.confusion}
    rows = Counter[str]()
    for (truth, _), count in cells.items():
        rows[truth] += count
    errors = {pair: count for pair, count in cells.items() if pair[0] != pair[1] and pair[1] in rows}
    total, pairs = sum(errors.values()), len(rows) * (len(rows) - 1) / 2
    found = sorted({tuple(sorted(pair)) for pair in errors}, key=lambda pair: (-_both(errors, pair), pair))
    told = [pair for pair in found[:3] if _stands_out(errors, rows, pair, total, pairs)]
    if not told:
        return None
    one, other = told[0]
    count, of = _both(errors, told[0]), rows[one] + rows[other]
    low, _ = wilson(count, of)
    text = f'{count} of the {of} dev rows of "{one}" and "{other}" are taken for the other one; {total} errors in all.'
    evidence: dict[str, float | str] = {"errors": float(count), "of": float(total), "low": low}
    for pair in told:
        for truth, answer in (pair, pair[::-1]):
            wrong = errors.get((truth, answer), 0)
            bounds = wilson(wrong, rows[truth])
            evidence[f"{truth} -> {answer}"] = f"{wrong} of {rows[truth]} ({bounds[0]:.0%} to {bounds[1]:.0%})"
    confidence = min(0.95, 0.55 + low)
    return Finding(
        kind="class_confusion", confidence=confidence, evidence=evidence, text=text, ids=trial.told_by("dev")
    )


def _both(errors: Mapping[tuple[str, str], int], pair: Sequence[str]) -> int:
    one, other = pair
    return errors.get((one, other), 0) + errors.get((other, one), 0)


def _stands_out(
    errors: Mapping[tuple[str, str], int], rows: Counter[str], pair: Sequence[str], total: int, pairs: float
) -> bool:
    count, of = _both(errors, pair), rows[pair[0]] + rows[pair[1]]
    low, _ = wilson(count, of)
    # With two labels every error is one of the pair: that they stand out says nothing, but that they overlap does.
    lucky = pairs > 1 and pairs * chance_of(count, total, 1 / pairs) > BY_LUCK
    return low >= CONFUSED and not lucky


def _named(rows: Sequence[DevRow]) -> tuple[str, ...]:
    return tuple(f"dev:{row.id}" for row in rows[:SHOWN])
