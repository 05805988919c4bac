"""The report's pictures as SVG text that needs no file beside it. Same numbers, same bytes."""

from collections.abc import Sequence
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from evals.scorers import NO_LABEL
from moatelier.contracts import EvalReport, Interval, TrainResult

INK, FAINT, GRID = "#1d2733", "#64748b", "#e2e8f0"
ACCENT, TARGET = "#0f766e", "#b45309"
PALETTE = ("#0f766e", "#6d5bd0", "#c2571a", "#2563a8", "#a8325e", "#5f7a1f")
STYLE: Any = {
    "svg.hashsalt": "moatelier",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": GRID,
    "xtick.color": FAINT,
    "ytick.color": INK,
}
NUMBERS_UP_TO = 24
"""Above this many labels the confusion's cells are too small for numbers."""


def intervals(subjects: Sequence[tuple[str, Interval]], target: float) -> str:
    """Points with their two-sided 95 % intervals, the bound the claim rests on, and the target as a line.

    Args:
        subjects: Name and interval, the most important last.
        target: What the lower bound has to reach.
    """
    left = max(0.0, min([target, *(interval.claim_low for _, interval in subjects[1:])]) - 0.06)
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = canvas(7.2, 0.62 * len(subjects) + 0.95)
        for place, (_, interval) in enumerate(subjects):
            colour = ACCENT if place == len(subjects) - 1 else FAINT
            _whisker(axes, place, interval, left, colour)
        axes.axvline(target, color=TARGET, linewidth=1.5, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(subjects)), [name for name, _ in subjects])
        axes.set_ylim(-0.6, len(subjects) - 0.2)
        axes.set_xlim(left, 1.005)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.tick_params(length=0)
        axes.grid(axis="x", color=GRID)
        return svg(figure)


def _whisker(axes: Axes, place: int, interval: Interval, left: float, colour: str) -> None:
    """One subject's line; one far to the left, as an untuned base is, becomes a mark at the edge."""
    if interval.high < left:
        axes.plot([left + (1 - left) / 50], [place], marker="<", markersize=8, color=colour)
        _label(axes, f"{interval.point:.1%}", left, place, offset=(20, -4), align="left")
        return
    axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=7, alpha=0.25)
    axes.plot([interval.claim_low], [place], marker="|", markersize=18, markeredgewidth=2.5, color=colour)
    axes.plot([interval.point], [place], marker="o", markersize=8, color=colour)
    _label(axes, f"{interval.point:.1%}", interval.point, place, offset=(0, 10), align="center")


def _label(axes: Axes, text: str, x: float, y: float, *, offset: tuple[int, int], align: str) -> None:
    axes.annotate(text, (x, y), offset, textcoords="offset points", ha=align)


def curves(results: Sequence[TrainResult]) -> str:
    """Training loss (smoothed) and dev loss of every trial against the step."""
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = canvas(7.2, 3.1)
        for number, result in enumerate(results):
            colour = PALETTE[number % len(PALETTE)]
            steps, losses = _columns(result.curve)
            axes.plot(steps, losses, color=colour, alpha=0.18, linewidth=1)
            axes.plot(steps, _smooth(losses), color=colour, linewidth=2, label=f"trial {number + 1}, training")
            if result.dev_curve:
                axes.plot(
                    *_columns(result.dev_curve), "o--", color=colour, markersize=6, label=f"trial {number + 1}, dev"
                )
        axes.set_xlabel("step")
        axes.set_ylabel("loss per trained token (nats)")
        axes.set_ylim(bottom=0)
        axes.tick_params(length=0)
        axes.grid(color=GRID)
        axes.legend(frameon=False, ncols=2, fontsize=9)
        return svg(figure)


def confusion(report: EvalReport) -> str:
    """Rows by true label against the predicted one, each row as shares of its own rows."""
    labels = list(report.per_class)
    columns = labels + ([NO_LABEL] if any(guess == NO_LABEL for _, guess, _ in report.confusion) else [])
    counts = np.zeros((len(labels), len(columns)))
    for truth, guess, count in report.confusion:
        counts[labels.index(truth), columns.index(guess)] = count
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(11.0, 2.4 + 0.42 * len(labels))
    small = len(labels) > NUMBERS_UP_TO
    with matplotlib.rc_context({**STYLE, "font.size": 5.5 if small else 9}):
        figure, (axes,) = canvas(size + 1.2, size)
        axes.imshow(shares, cmap=LinearSegmentedColormap.from_list("", ["#ffffff", "#99d1cb", ACCENT]), vmin=0, vmax=1)
        axes.set_xticks(range(len(columns)), columns, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.tick_params(length=0)
        if not small:
            _number_cells(axes, counts, shares)
        return svg(figure)


def _number_cells(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    for row, column in np.argwhere(counts > 0):
        colour = "white" if shares[row, column] > 0.6 else INK
        axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=colour)


def canvas(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure without frames, in inches, its panels on one scale of y; no global state of pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for axes in panels:
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    return figure, panels


def svg(figure: Figure) -> str:
    """The figure as text that stands in a page."""
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]  # an XML declaration has no place inside HTML


def _columns(curve: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]


def _smooth(values: Sequence[float]) -> list[float]:
    """A running mean over about a twentieth of the run, so that single batches do not hide the trend."""
    width = max(1, len(values) // 20)
    return [float(np.mean(values[max(0, place - width + 1) : place + 1])) for place in range(len(values))]
