"""The evaluator: what a trial's curves and scores say about it. It sees dev rows' results and select scores only."""

import math
from collections.abc import Sequence

from agents.starts import SOLVED, start
from agents.trial import Trial
from moatelier.contracts import Diagnosis, EvalReport, Finding, MetricName, TaskPlan, TrainResult

STOPS_ENOUGH = 0.9
"""Below this natural-stop rate on dev the adapter has not learnt to stop."""
STILL_FALLING = 0.85
"""Training loss at the end against the part before: below this share it was still falling."""
RISE = 1.15
"""A final dev loss this many times its minimum has turned upwards."""
GAIN = 0.005
"""An improvement on select smaller than this over the best trial so far is none."""
SHIFT = 0.15
OVERLAP = 0.5


def diagnose(trials: Sequence[Trial], plan: TaskPlan) -> Diagnosis:
    """Diagnose the last trial in the light of the earlier ones.

    Args:
        trials: All trials so far, oldest first; at least one.
        plan: The approved plan; its goal's metric is looked at.

    Returns:
        The findings, the one to act upon first; `healthy` when nothing is wrong.
    """
    *earlier, trial = trials
    result, dev, select, metric = trial.result, trial.dev, trial.select, plan.goal.value.metric
    findings = [
        finding
        for finding in (
            _broken(result, solved=trial.spec.method in SOLVED),
            _never_stops(dev),
            _overfit(result),
            _underfit(result, dev, metric, start(trial.spec.method).high_loss),
            _plateau(select, earlier, metric),
            _shifted(dev, select, metric),
            _overlapping(dev),
        )
        if finding is not None
    ]
    if not findings:
        score = score_of(select, metric)
        text = f"Nothing looks wrong; select {metric} is {score:.3f}."
        findings = [Finding(kind="healthy", confidence=0.8, evidence={"select": score}, text=text)]
    findings.sort(key=lambda finding: (finding.kind != "data_fault" or finding.confidence < 1, -finding.confidence))
    return Diagnosis(trial=len(earlier), findings=tuple(findings))


def score_of(report: EvalReport, metric: MetricName) -> float:
    """The point estimate of a metric; 0 when the report lacks it."""
    return report.metrics[metric].point if metric in report.metrics else 0.0


def _broken(result: TrainResult, solved: bool) -> Finding | None:
    if (result.steps > 0 or solved) and math.isfinite(result.train_loss):
        return None
    evidence: dict[str, float | str] = {"steps": float(result.steps), "train_loss": str(result.train_loss)}
    return Finding(
        kind="data_fault",
        confidence=1.0,
        evidence=evidence,
        text="Training gave no finite loss: the rows or the learning rate cannot be trained with.",
    )


def _never_stops(dev: EvalReport) -> Finding | None:
    if dev.natural_stop_rate >= STOPS_ENOUGH:
        return None
    text = f"Only {dev.natural_stop_rate:.0%} of the dev answers end by themselves; the stop token is not learnt."
    confidence = min(0.95, 0.6 + (STOPS_ENOUGH - dev.natural_stop_rate))
    return Finding(
        kind="never_stops", confidence=confidence, evidence={"natural_stop_rate": dev.natural_stop_rate}, text=text
    )


def _overfit(result: TrainResult) -> Finding | None:
    """Dev loss turned upwards after its minimum while training loss went on falling."""
    if len(result.dev_curve) < 2 or not math.isfinite(result.train_loss):
        return None
    steps, losses = zip(*result.dev_curve, strict=True)
    lowest = min(losses)
    step, last = steps[losses.index(lowest)], losses[-1]
    if last < RISE * lowest + 0.01 or step == steps[-1] or result.train_loss > last / 2:
        return None
    text = (
        f"Dev loss was lowest at step {step} ({lowest:.3f}) and rose to {last:.3f}, with training loss at "
        f"{result.train_loss:.3f}."
    )
    confidence = min(0.9, 0.5 + (last / max(lowest, 1e-6) - 1) / 2)
    evidence: dict[str, float | str] = {
        "lowest_dev_loss": lowest,
        "at_step": float(step),
        "last_dev_loss": last,
        "train_loss": result.train_loss,
    }
    return Finding(kind="overfit", confidence=confidence, evidence=evidence, text=text)


def _underfit(result: TrainResult, dev: EvalReport, metric: MetricName, high_loss: float) -> Finding | None:
    if not math.isfinite(result.train_loss):
        return None
    falling = _fall(result)
    high = result.train_loss > high_loss
    cut = result.stopped == "out_of_time"
    unfitted = falling < STILL_FALLING and result.train_loss > 0.05
    if not (high or unfitted or cut):
        return None
    signs = [f"training loss is still {result.train_loss:.3f}"] if high else []
    signs += [f"it fell by {1 - falling:.0%} in the last quarter"] if unfitted else []
    signs += ["time ran out before the last step"] if cut else []
    confidence = min(0.9, 0.5 + 0.2 * high + 0.15 * unfitted + 0.1 * cut)
    evidence: dict[str, float | str] = {
        "train_loss": result.train_loss,
        "fall": falling,
        "stopped": result.stopped,
        "dev": score_of(dev, metric),
    }
    return Finding(
        kind="underfit", confidence=confidence, evidence=evidence, text=f"Not learnt to the end: {', '.join(signs)}."
    )


def _fall(result: TrainResult) -> float:
    """Mean training loss of the last quarter against the quarter before; 1 where the curve is too short to say."""
    losses = [loss for _, loss in result.curve if math.isfinite(loss)]
    quarter = len(losses) // 4
    if quarter < 3:
        return 1.0
    before, last = losses[-2 * quarter : -quarter], losses[-quarter:]
    return (sum(last) / quarter) / max(sum(before) / quarter, 1e-9)


def _plateau(select: EvalReport, earlier: Sequence[Trial], metric: MetricName) -> Finding | None:
    if not earlier:
        return None
    best, now = max(score_of(trial.select, metric) for trial in earlier), score_of(select, metric)
    if now >= best + GAIN:
        return None
    text = f"Select {metric} is {now:.3f}, no better than the best so far ({best:.3f})."
    return Finding(kind="plateau", confidence=0.55, evidence={"select": now, "best_before": best}, text=text)


def _shifted(dev: EvalReport, select: EvalReport, metric: MetricName) -> Finding | None:
    """Dev and select are drawn alike; scores far apart mean that the splits are not alike."""
    if metric not in dev.metrics or metric not in select.metrics:
        return None
    one, other = dev.metrics[metric], select.metrics[metric]
    apart = one.low > other.high or other.low > one.high
    if not apart or abs(one.point - other.point) < SHIFT:
        return None
    text = f"Dev ({one.point:.3f}) and select ({other.point:.3f}) are too far apart for two samples of the same rows."
    return Finding(kind="data_fault", confidence=0.5, evidence={"dev": one.point, "select": other.point}, text=text)


def _overlapping(dev: EvalReport) -> Finding | None:
    """Two labels confused both ways make up most of the errors: the labels overlap, or their rows are mislabelled."""
    errors = {(truth, answer): count for truth, answer, count in dev.confusion if truth != answer}
    total = sum(errors.values())
    for (one, other), count in sorted(errors.items(), key=lambda item: (-item[1], item[0])):
        back = errors.get((other, one), 0)
        if total >= 5 and back and count + back > OVERLAP * total:
            text = f'{count + back} of {total} dev errors confuse "{one}" with "{other}"; these labels may overlap.'
            evidence: dict[str, float | str] = {
                "one": one,
                "other": other,
                "errors": float(count + back),
                "of": float(total),
            }
            return Finding(kind="data_fault", confidence=0.4, evidence=evidence, text=text)
    return None
