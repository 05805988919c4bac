"""What a trial takes on this machine by a probe's measure, and what would take less."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from agents.kinds import NOUN
from moatelier.contracts import Contract, TrialLimits

ROOM = 0.9
"""A cheaper trial takes at most this share of the budget: a forecast may be off."""
FEWEST_ROWS = 8
DEV_RATE = 3.0
"""Rows are looked at so many times as fast as they are trained on, where nobody measured it."""


class Work(Contract):
    """What a trial has to do."""

    rows: int
    """To train on."""
    dev_rows: int = 0
    """Looked at after each epoch."""
    epochs: float
    """0 where nothing is done in steps."""
    modality: str = "text"
    lengths: tuple[tuple[int, int], ...] = ()
    """Of texts: [tokens, trained tokens] of some rows that stand for all, ascending."""
    longest: int = 0
    """Tokens of the longest row."""
    price: float | None = None
    """Of an hour."""
    cache_room: float = math.inf
    """Bytes that the frozen layers' cache may take; without it they run again in each epoch."""


class Estimate(Contract):
    """How long a trial takes, how much memory it holds at most, what it costs at the price of an hour."""

    seconds: float
    frozen_seconds: float
    """Once, before the first step."""
    epoch_seconds: float
    """With the look at the dev rows."""
    peak_bytes: int
    cost: float | None = None


class Cheaper(Contract):
    """A trial that takes less."""

    change: str
    """What is different, in words."""
    limits: TrialLimits
    """What to put into the plan for it."""
    estimate: Estimate


def estimate(speed: Mapping[str, Any], work: Work, size: float = 1.0) -> Estimate:
    """What a trial takes.

    Args:
        speed: What the probe told, see `training.probe`.
        work: What is to be done.
        size: How large a row is beside those of the probe.
    """
    rows, dev = work.rows * size, work.dev_rows * size
    once = speed.get("start_seconds", 0.0) + speed.get("solve_seconds", 0.0)
    cache = speed.get("cache_bytes", 0) * (rows + dev)
    times = 1 if cache <= work.cache_room else max(1, math.ceil(work.epochs))
    frozen = times * (rows + dev) / speed["frozen_rows_per_s"] + once
    look = dev / speed.get("dev_rows_per_s", DEV_RATE * speed["train_rows_per_s"])
    epoch = rows / speed["train_rows_per_s"]
    seconds = frozen + work.epochs * epoch + math.ceil(work.epochs) * look
    return Estimate(
        seconds=round(seconds, 1),
        frozen_seconds=round(frozen, 1),
        epoch_seconds=round(epoch + look, 3),
        peak_bytes=round(speed.get("peak_bytes", 0) + (cache if cache <= work.cache_room else 0)),
        cost=None if work.price is None else round(seconds / 3600 * work.price, 4),
    )


def cheaper(speed: Mapping[str, Any], work: Work, seconds: float, room_bytes: int | None = None) -> list[Cheaper]:
    """Up to three trials that fit: fewer epochs, fewer rows, only short rows, or some of each.

    Args:
        speed: What the probe told.
        work: What would be too much.
        seconds: What the trial may take.
        room_bytes: What it may hold; None is no limit. Only the length of the longest row can change it.
    """
    short = room_bytes is not None and speed.get("peak_bytes", 0) > room_bytes
    ways = [_short_rows] if short else [_fewer_epochs, _fewer_rows, _short_rows, _fewer_of_both]
    target = ROOM * seconds
    found = [way(speed, work, target, room_bytes) for way in ways]
    return [each for each in found if each is not None and each.estimate.seconds <= seconds][:3]


def _fewer_epochs(speed: Mapping[str, Any], work: Work, target: float, _: int | None) -> Cheaper | None:
    takes = estimate(speed, work)
    if takes.epoch_seconds <= 0 or not work.epochs:
        return None
    epochs = (target - takes.frozen_seconds) / takes.epoch_seconds
    epochs = float(math.floor(epochs)) if epochs >= 1 else math.floor(10 * epochs) / 10
    if not 0 < epochs < work.epochs:
        return None
    change = f"{epochs:g} of {work.epochs:g} epochs"
    return _made(change, speed, work.model_copy(update={"epochs": epochs}), TrialLimits(epochs=epochs))


def _fewer_rows(speed: Mapping[str, Any], work: Work, target: float, _: int | None) -> Cheaper | None:
    part = _part(speed, work, target)
    rows = math.floor(part * work.rows)
    if not FEWEST_ROWS <= rows < work.rows:
        return None
    change = f"{rows} of {work.rows} {NOUN.get(work.modality, 'row')}s"
    return _made(change, speed, work.model_copy(update={"rows": rows}), TrialLimits(rows=rows))


def _fewer_of_both(speed: Mapping[str, Any], work: Work, target: float, room: int | None) -> Cheaper | None:
    epochs = round(work.epochs * math.sqrt(target / max(estimate(speed, work).seconds, target)), 1)
    if not 0 < epochs < work.epochs:
        return None
    part = _fewer_rows(speed, work.model_copy(update={"epochs": epochs}), target, room)
    if part is None:
        return None
    limits = part.limits.model_copy(update={"epochs": epochs})
    return part.model_copy(update={"change": f"{epochs:g} of {work.epochs:g} epochs, {part.change}", "limits": limits})


def _short_rows(speed: Mapping[str, Any], work: Work, target: float, room: int | None) -> Cheaper | None:
    """The longest rows are left out: the highest bound on their tokens with which it fits."""
    tokens = sum(length for length, _ in work.lengths)
    for kept in range(len(work.lengths) - 1, len(work.lengths) // 4, -1):
        bound = work.lengths[kept - 1][0]
        share = kept / len(work.lengths)
        size = sum(length for length, _ in work.lengths[:kept]) / tokens / share
        fewer = work.model_copy(update={"rows": math.floor(share * work.rows)})
        held = _with_longest(speed, work.longest, bound)
        takes = estimate(held, fewer, size)
        if takes.seconds <= target and (room is None or held["peak_bytes"] <= room):
            change = f"only the {share:.0%} of the rows that have at most {bound} tokens"
            return Cheaper(change=change, limits=TrialLimits(tokens=bound), estimate=takes)
    return None


def _with_longest(speed: Mapping[str, Any], longest: int, bound: int) -> dict[str, Any]:
    """The probe's measure if the longest row had so many tokens: what rows hold grows with the longest of them."""
    peak, held = speed.get("peak_bytes", 0), speed.get("held_bytes", 0)
    micro = speed.get("micro_tokens", longest)
    share = max(bound, micro) / max(longest, micro) if longest else 1.0
    return {**speed, "peak_bytes": round(held + (peak - held) * share)}


def _part(speed: Mapping[str, Any], work: Work, target: float) -> float:
    """The part of the rows that fits, rows being what all of it grows with but the looks at the dev rows."""
    none = estimate(speed, work.model_copy(update={"rows": 0})).seconds
    whole = estimate(speed, work).seconds
    return max(0.0, target - none) / max(whole - none, 1e-6)


def _made(change: str, speed: Mapping[str, Any], work: Work, limits: TrialLimits) -> Cheaper:
    return Cheaper(change=change, limits=limits, estimate=estimate(speed, work))


def told(options: Sequence[Cheaper]) -> str:
    """The cheaper trials in a sentence, numbered as a person may choose them."""
    if not options:
        return "Nothing smaller fits."
    parts = [
        f"{place}: {each.change} ({minutes(each.estimate.seconds)}{_price(each)})"
        for place, each in enumerate(options, 1)
    ]
    return f"What fits: {'; '.join(parts)}."


def _price(each: Cheaper) -> str:
    return "" if each.estimate.cost is None else f", costs {each.estimate.cost:.2f}"


def minutes(seconds: float) -> str:
    """A time as a person reads it."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
