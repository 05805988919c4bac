"""What the losses of a training say: it was not learnt to the end, learnt by heart, or flew apart."""

import math
from collections.abc import Sequence

from agents.starts import SOLVED, start
from agents.trial import Trial
from moatelier.contracts import DevRow, Finding, TrainResult

STILL_FALLING = 0.85
"""Training loss at the end against the part before: below this share it was still falling."""
RISE = 1.15
"""A final dev loss this many times its minimum has turned upwards."""
FLEW = 1.5
"""A training loss this many times its lowest, or what it began with, has flown apart."""
LEARNT = 0.3
"""Loss of the typical dev row, in nats a token: below it the row is learnt, and a high mean is due to others."""


def broken(trial: Trial) -> Finding | None:
    """Training gave nothing that could be judged."""
    result = trial.result
    if (result.steps > 0 or trial.spec.method in SOLVED) and math.isfinite(result.train_loss):
        return None
    return Finding(
        kind="data_fault",
        confidence=1.0,
        evidence={"steps": float(result.steps), "train_loss": str(result.train_loss)},
        ids=trial.told_by("train"),
        text="Training gave no finite loss: the rows or the learning rate cannot be trained with.",
    )


def diverged(trial: Trial) -> Finding | None:
    """Losses that were not finite and had to be gone back from, or that ended far above where they had been."""
    result = trial.result
    returns = [setback for setback in result.setbacks if setback.kind == "diverged"]
    if returns:
        text = f"The loss was not finite at step {returns[0].step}; training went back and on at a third of the rate."
        evidence: dict[str, float | str] = {"returns": float(len(returns)), "at_step": float(returns[0].step)}
        return _finding(trial, "divergence", 0.95, evidence, text)
    losses = _finite(result)
    if len(losses) < 6 or not math.isfinite(result.train_loss):
        return None
    smooth = _smoothed(losses, max(3, len(losses) // 20))
    first, lowest, highest, last = sum(losses[:2]) / 2, min(smooth), max(smooth), smooth[-1]
    rose = last > FLEW * lowest + 0.1 and last > start(trial.spec.method).high_loss
    flew = highest > FLEW * first + 0.1 and last > 0.5 * first
    if not (rose or flew):
        return None
    text = f"Training loss began at {first:.2f}, rose to {highest:.2f} and ended at {last:.2f}: it flew apart."
    return _finding(trial, "divergence", 0.9, {"first": first, "highest": highest, "last": last}, text)


def overfit(trial: Trial) -> Finding | None:
    """Dev loss turned upwards after its minimum while training loss went on falling."""
    result = trial.result
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
    return _finding(trial, "overfit", confidence, evidence, text)


def underfit(trial: Trial, dev_score: float, rows: Sequence[DevRow]) -> Finding | None:
    """Training loss is still high or still falling; a high mean that few rows make is not meant."""
    result = trial.result
    if not math.isfinite(result.train_loss):
        return None
    falling, usual = _fall(result), typical(rows)
    high = result.train_loss > start(trial.spec.method).high_loss and (usual is None or usual > LEARNT)
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
        "dev": dev_score,
    }
    return _finding(trial, "underfit", confidence, evidence, f"Not learnt to the end: {', '.join(signs)}.")


def typical(rows: Sequence[DevRow]) -> float | None:
    """The median row's loss, in nats a token; None where it was not measured."""
    losses = sorted(row.loss / max(row.tokens, 1) for row in rows if row.loss is not None)
    return losses[len(losses) // 2] if losses else None


def _finding(trial: Trial, kind: str, confidence: float, evidence: dict[str, float | str], text: str) -> Finding:
    return Finding.model_validate(
        {"kind": kind, "confidence": confidence, "evidence": evidence, "text": text, "ids": trial.told_by("train")}
    )


def _finite(result: TrainResult) -> list[float]:
    return [loss for _, loss in result.curve if math.isfinite(loss)]


def _smoothed(losses: Sequence[float], width: int) -> list[float]:
    return [sum(losses[at : at + width]) / width for at in range(len(losses) - width + 1)]


def _fall(result: TrainResult) -> float:
    """Mean training loss of the last quarter against the quarter before; 1 where the curve is too short to say."""
    losses = _finite(result)
    quarter = len(losses) // 4
    if quarter < 3:
        return 1.0
    before, last = losses[-2 * quarter : -quarter], losses[-quarter:]
    return (sum(last) / quarter) / max(sum(before) / quarter, 1e-9)
