"""A search as the report shows it: every trial in a table, how each went, and what each setting did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from evals.pictures import ACCENT, FAINT, GRID, STYLE, TARGET, canvas, svg
from moatelier.contracts import EvalReport, GateDecision, Leg, MetricName, Search
from moatelier.contracts.search import Value

WIDE = 4
"""So many settings stand side by side."""


@dataclass(frozen=True)
class Tried:
    """One trial of a search.

    Attributes:
        number: Counted from 1.
        values: What was drawn for it.
        points: (rows seen, loss on dev rows) at the end of each of its legs.
        end: whole, pruned, out of time or failed.
        seconds: Of the budget.
        steps: Taken.
        score: On select rows; None where it was not scored.
        chosen: It went to the gate.
        error: Why it failed.
    """

    number: int
    values: Mapping[str, Value]
    points: Sequence[tuple[float, float]]
    end: str
    seconds: float
    steps: int
    score: float | None
    chosen: bool
    error: str


def told(search: Search) -> str:
    """Way and space in words."""
    space = "; ".join(
        f"{name.replace('_', ' ')} {', '.join(told_value(value) for value in values)}"
        for name, values in search.space.items()
    )
    return f"{search.by}: {space}" if space else search.by


def told_value(value: Value) -> str:
    """A setting's value in words."""
    return value.replace("_", " ") if isinstance(value, str) else f"{value:g}"


def shown(
    legs: Sequence[Leg], trials: Sequence[Mapping[str, Any]], decision: GateDecision | None, metric: MetricName
) -> dict[str, Any]:
    """What the page needs of a search: `searched`, its trials, best first; `settings`, what differs; the pictures."""
    if not legs:
        return {"searched": [], "settings": [], "search_pictures": {}}
    scores = {
        str(trial["result"]["bundle"]): EvalReport.model_validate(trial["select"]).metrics[metric].point
        for trial in trials
    }
    tried = [
        _tried([leg for leg in legs if leg.trial == number], scores, decision.candidate if decision else None)
        for number in sorted({leg.trial for leg in legs})
    ]
    drawn = {"course": course(tried)} if any(each.points for each in tried) else {}
    if len([each for each in tried if each.points]) > 1:
        drawn["settings"] = settings(tried)
    return {
        "searched": sorted(tried, key=_better),
        "settings": list(legs[0].values),
        "search_pictures": {name: Markup(text) for name, text in drawn.items()},
    }


def _tried(legs: Sequence[Leg], scores: Mapping[str, float], candidate: str | None) -> Tried:
    ran = [(leg, leg.result) for leg in legs if leg.result]
    last = ran[-1][1] if ran else None
    stopped = {"finished": "whole", "paused": "pruned", "out_of_time": "out of time"}
    return Tried(
        number=legs[0].trial + 1,
        values=legs[0].values,
        points=[
            (result.steps * leg.spec.batch_rows, result.train_loss if result.dev_loss is None else result.dev_loss)
            for leg, result in ran
        ],
        end="failed" if any(leg.error for leg in legs) else stopped[last.stopped] if last else "failed",
        seconds=sum(leg.seconds for leg in legs),
        steps=last.steps if last else 0,
        score=scores.get(last.bundle) if last else None,
        chosen=bool(last and last.bundle == candidate),
        error=next((leg.error for leg in legs if leg.error), ""),
    )


def _better(tried: Tried) -> tuple[bool, bool, float, float, float]:
    seen, loss = tried.points[-1] if tried.points else (0.0, 0.0)
    return not tried.chosen, tried.score is None, -(tried.score or 0.0), -seen, loss


def course(tried: Sequence[Tried]) -> str:
    """Loss on dev rows against rows seen: those pruned end in a cross, those that came to the end in a dot."""
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = canvas(7.2, 3.1)
        for each in tried:
            if not each.points:
                continue
            rows, losses = zip(*each.points, strict=True)
            colour = _colour(each)
            axes.plot(rows, losses, color=colour, linewidth=1.5 if each.score is not None else 1, alpha=0.8)
            axes.plot(rows[-1:], losses[-1:], marker=_mark(each), color=colour, markersize=7, markeredgewidth=2)
            axes.annotate(str(each.number), (rows[-1], losses[-1]), (7, -3), textcoords="offset points", color=colour)
        axes.set_xlabel("training rows seen")
        axes.set_ylabel("loss on dev rows (nats)")
        _plain(axes)
        return svg(figure)


def settings(tried: Sequence[Tried]) -> str:
    """Loss on dev rows at the first rung, where all trials stand alike, against each setting."""
    ran = [each for each in tried if each.points]
    names = list(ran[0].values)
    rows = -(-len(names) // WIDE)
    with matplotlib.rc_context(STYLE):
        figure, panels = canvas(7.2, 2.4 * rows, rows, min(len(names), WIDE))
        for name, axes in zip(names, panels, strict=False):
            _setting(axes, name, ran)
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        panels[0].set_ylabel("loss on dev rows\nat the first rung")
        return svg(figure)


def _setting(axes: Axes, name: str, ran: Sequence[Tried]) -> None:
    values = sorted({each.values[name] for each in ran}, key=lambda value: (isinstance(value, str), value))
    for each in ran:
        place, loss = values.index(each.values[name]), each.points[0][1]
        axes.plot([place], [loss], marker=_mark(each), color=_colour(each), markersize=6, markeredgewidth=1.5)
    axes.set_xticks(
        range(len(values)),
        [told_value(value) for value in values],
        rotation=0 if len(values) < 5 and max(len(told_value(value)) for value in values) < 5 else 45,
    )
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_xlabel(name.replace("_", " "))
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(length=0)
    axes.grid(color=GRID)


def _mark(tried: Tried) -> str:
    return "o" if tried.end == "whole" else "x"


def _colour(tried: Tried) -> str:
    return ACCENT if tried.chosen else TARGET if tried.score is not None else FAINT
