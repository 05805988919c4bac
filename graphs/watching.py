"""The worker looks at what was observed: each model's requests are held against those it began with.

The first `REFERENCE` requests of a model under a name are its reference, until a person resets it or another model
takes the name. Then every `STEP` requests the newest `WINDOW` are looked at. What stays shifted is an alert. The
look is written down with the place up to which it went: whoever dies before looks again and raises the same alert.
"""

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from evals import drift
from evals.drift import Found
from graphs import metrics
from graphs.alerting import raise_alert
from moatelier.contracts import now
from moatelier.settings import settings
from store import artifacts, monitors, observations
from store.monitors import Monitor
from store.observations import Seen

MOST = 50
"""Looks within a sweep, some seconds."""
FAILING = 0.3
"""So many failures are no reference, and among the newest requests an alert."""


def look_after(after: int = 0) -> int:
    """Look at every model that was asked since an observation. For the sweeper.

    Returns:
        The newest observation there is; while `MOST` looks are not enough, where it began.
    """
    newest_of_all, looks = after, 0
    for project, model, chosen, newest in observations.models(after):
        newest_of_all = max(newest_of_all, newest)
        _need_success(project, model, chosen, newest)
        while looks < MOST and newest > (monitor := monitors.get(project, model, chosen)).last and step(monitor):
            looks += 1
    observations.forget(settings().watch_days)
    monitors.forget(now() - timedelta(days=settings().watch_days))
    return newest_of_all if looks < MOST else after


def _need_success(project: str, model: str, chosen: str, newest: int) -> None:
    """A model that fails at many of its newest requests is told of at once, whatever is usual."""
    recent = observations.window(project, model, chosen, after=0, upto=newest, limit=drift.STEP)
    rate = sum(bool(each.numbers.get("error")) for each in recent) / drift.STEP  # of fewer requests more must fail
    if rate > FAILING:
        what = f"{rate:.0%} of the newest {drift.STEP} requests failed."
        raise_alert(
            project, "errors", model, what, {"chosen": chosen, "rate": rate}, about=f"{chosen}/failing/{newest}"
        )


def step(monitor: Monitor) -> bool:
    """One look, or the reference; False while there are too few requests."""
    named = monitor.project, monitor.model, monitor.chosen
    if monitor.reference is None:
        seen = observations.after(*named, monitor.last, drift.REFERENCE)
        return len(seen) == drift.REFERENCE and _begin(monitor, seen)
    news = observations.after(*named, monitor.last, drift.STEP)
    if len(news) < drift.STEP:
        return False
    last, state = news[-1].id, dict(monitor.state)
    window = observations.window(*named, after=state["begun"], upto=last, limit=drift.WINDOW)
    if len(window) == drift.WINDOW:
        reference = artifacts.get_json(monitor.reference)["rows"]
        found = drift.look(reference, [each.numbers for each in window])
        state["streaks"] = drift.streaks(state.get("streaks", {}), found)
        state["found"] = {name: asdict(one) for name, one in found.items()}
        _alert(monitor, last, found, state["streaks"])
        metrics.CHECKS.labels("shifted" if state["streaks"] else "usual").inc()
    return monitors.put(monitor, last=last, state=state, reference=monitor.reference)


def _begin(monitor: Monitor, seen: list[Seen]) -> bool:
    """Take these for what is usual, unless too many of them failed."""
    last, failed = seen[-1].id, sum(bool(each.numbers.get("error")) for each in seen) / len(seen)
    if failed > FAILING:  # which was told of while it happened
        return monitors.put(monitor, last=last, state={}, reference=None)
    reference = artifacts.put_json({"rows": [each.numbers for each in seen]})
    return monitors.put(monitor, last=last, state={"begun": last}, reference=reference)


def _alert(monitor: Monitor, last: int, found: dict[str, Found], streaks: dict[str, int]) -> None:
    for name, streak in streaks.items():
        if streak < drift.PERSISTENCE:
            continue
        body: dict[str, Any] = {"chosen": monitor.chosen, "looks": streak, "requests": drift.WINDOW}
        raise_alert(
            monitor.project,
            name,
            monitor.model,
            told(name, found[name]),
            body | asdict(found[name]),
            about=f"{monitor.chosen}/{last}",
        )


def told(name: str, found: Found) -> str:
    """A shift in words."""
    moved = f" from {found.before} to {found.after}" if found.before is not None else ""
    return f"{name.replace('_', ' ')} has shifted{moved} (size {found.size:g}, p {found.p:.1g})."
