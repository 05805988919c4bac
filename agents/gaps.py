"""What a comparison says: nothing gained on earlier trials, the base's abilities lost, preferences not learnt."""

import math
from collections.abc import Sequence

from agents.shares import likely_better
from agents.starts import start
from agents.trial import Trial, score_of
from moatelier.contracts import Finding, Interval, MetricName, TaskPlan

GAIN = 0.005
"""An improvement on select smaller than this over the best trial so far is none."""
CLEAR = 0.75
"""A higher score that is truly higher with less than this probability is noise."""
LOST = 0.05
"""So much of a score may go on the retention suite."""
LOST_NATS = 0.15
"""So much may be added to the loss on it, in nats a token."""
FITTED = 0.7
"""A preference loss that fell below this share of what it began with is learnt on the training pairs."""


def plateau(trial: Trial, earlier: Sequence[Trial], metric: MetricName) -> Finding | None:
    """The score is no better than the best before by more than the noise of both."""
    if not earlier:
        return None
    best = max(earlier, key=lambda one: score_of(one.select, metric))
    before, now = score_of(best.select, metric), score_of(trial.select, metric)
    found = (trial.select.metrics.get(metric), best.select.metrics.get(metric))
    chance = likely_better(found[0], found[1]) if found[0] and found[1] else float(now > before)
    if now >= before + GAIN and chance >= CLEAR:
        return None
    within = f" within the noise ({chance:.0%} likely to be better)" if now >= before + GAIN else ""
    text = f"Select {metric} is {now:.3f}, no better than the best so far ({before:.3f}){within}."
    evidence: dict[str, float | str] = {"select": now, "best_before": before, "likely_better": chance}
    confidence = min(0.6, 0.35 + 0.4 * (1 - chance))
    ids = (*trial.told_by("select"), *best.told_by("select"))
    return Finding(kind="plateau", confidence=confidence, evidence=evidence, text=text, ids=ids)


def forgotten(trial: Trial) -> Finding | None:
    """What the base could do and the trial can no more, on the same frozen prompts."""
    if trial.retention is None:
        return None
    base, own = trial.retention
    told: dict[str, float | str] = {}
    worst = 0.0
    for name in sorted(base.metrics.keys() & own.metrics.keys()):
        worst = max(worst, _lost(base.metrics[name], own.metrics[name]))
        told[name] = f"{base.metrics[name].point:.3f} -> {own.metrics[name].point:.3f}"
    if not told and base.loss is not None and own.loss is not None:
        worst = min(1.0, max(0.0, own.loss - base.loss - LOST_NATS))
    if base.loss is not None and own.loss is not None:
        told["loss"] = f"{base.loss:.3f} -> {own.loss:.3f}"
    if not worst:
        return None
    lost = ", ".join(f"{name} {change}" for name, change in told.items())
    text = f"What the base could do is lost on {own.rows} rows of the retention suite: {lost}."
    return Finding(
        kind="forgetting", confidence=min(0.95, 0.65 + worst), evidence=told, text=text, ids=trial.told_by("retention")
    )


def _lost(base: Interval, own: Interval) -> float:
    """How much of a score is lost beyond what may be, where more is lost than noise can tell."""
    clear = likely_better(base, own) > 0.975
    return max(0.0, base.point - own.point - LOST) if clear else 0.0


def preferences(trial: Trial, plan: TaskPlan) -> Finding | None:
    """The training pairs are told apart, and held-out ones are not: what was learnt is not what people prefer.

    Low losses beside a ranking that is hardly better than chance are what preference learning is known for (Chen et
    al. 2024, arXiv 2405.19534).
    """
    if plan.kind.value not in ("preference", "thumbs"):
        return None
    losses = [loss for _, loss in trial.result.curve if math.isfinite(loss)]
    held = [report.metrics.get("preference_accuracy") for report in (trial.dev, trial.select)]
    known = [one for one in held if one is not None]
    if not losses or not known:
        return None
    first = sum(losses[:2]) / len(losses[:2])
    fitted = trial.result.train_loss < min(FITTED * first, start(trial.spec.method).high_loss)
    shown = [one for one in known if one.low > 0.5]
    if not fitted or len(shown) == len(known):
        return None
    worst = min(known, key=lambda one: one.low)
    text = (
        f"On training rows the preference loss fell from {first:.3f} to {trial.result.train_loss:.3f}, and on held-out "
        f"ones {worst.point:.0%} are liked as wanted ({worst.low:.0%} to {worst.high:.0%}), where chance gives half."
    )
    evidence: dict[str, float | str] = {
        "first_loss": first,
        "train_loss": trial.result.train_loss,
        "held_out": worst.point,
        "low": worst.low,
        "high": worst.high,
    }
    ids = trial.told_by("train", "dev", "select")
    return Finding(kind="preference_gap", confidence=0.9, evidence=evidence, text=text, ids=ids)
