"""The table of the mixed test: its lines, each beside `auto` on the same rows, and the figures that sum it up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.asking import Rights, mean_over, rights
from benchmarks.replies import Given
from moatelier.contracts import Interval

AUTO = "auto"
BY_DOMAIN = ("pooled adapter", AUTO, "domain oracle", "any adapter right")
console = Console()


class Row(NamedTuple):
    """A question, the answer to it, the domain that nobody is told, and whether it tests or chooses."""

    text: str
    intent: str
    domain: str
    tests: bool


@dataclass(frozen=True)
class Line:
    """One subject over select and test rows: whether it was right, the models it asked and their tokens `[rows]`."""

    right: Rights
    calls: Rights
    tokens: Rights

    def chosen(self, rows: Sequence[Row]) -> float:
        """The share of select rows that it has right."""
        return float(self.right[~tests(rows)].mean())

    @classmethod
    def any(cls, several: Sequence["Line"]) -> "Line":
        """Right where any of them is, which nobody knows beforehand; they were all asked."""
        right = np.max([one.right for one in several], axis=0)
        return cls(right, *(np.sum([getattr(one, name) for one in several], axis=0) for name in ("calls", "tokens")))


def tests(rows: Sequence[Row], domain: str | None = None) -> np.ndarray:
    """Which rows are test rows, of one domain or of all `[rows]`."""
    return np.array([row.tests and domain in (None, row.domain) for row in rows], dtype=bool)


def line(rows: Sequence[Row], given: Sequence[Given]) -> Line:
    """Answers scored."""
    right = rights([one.text for one in given], [row.intent for row in rows])
    return Line(right, np.array([float(one.calls) for one in given]), np.array([float(one.tokens) for one in given]))


def against_auto(rows: Sequence[Row], found: Mapping[str, Line], name: str) -> Interval:
    """The paired difference of a line to `auto` on test rows."""
    return mean_over((found[name].right - found[AUTO].right)[tests(rows)])


def shown(rows: Sequence[Row], found: Mapping[str, Line], home: Mapping[str, bool]) -> None:
    """Print both tables.

    Args:
        rows: Select and test rows.
        found: All lines.
        home: Text -> whether the router chose its domain's adapter.
    """
    tested = tests(rows)
    title = f"{len({row.domain for row in rows})} domains, {tested.sum()} test rows, domain hidden"
    names = ("", "right", "against auto, points (95 %)", "calls a row", "tokens a row", "right on select")
    table = Table(*names, title=title, title_justify="left")
    for name, one in found.items():
        gain = against_auto(rows, found, name)
        table.add_row(
            name,
            f"{one.right[tested].mean():.1%}",
            "" if name == AUTO else f"{100 * gain.point:+.2f} ({100 * gain.low:+.2f} to {100 * gain.high:+.2f})",
            f"{one.calls[tested].mean():.2f}",
            f"{one.tokens[tested].mean():.1f}",
            f"{one.chosen(rows):.1%}",
        )
    console.print(table)
    domains = Table("", "routed home", *BY_DOMAIN, title="by domain", title_justify="left")
    at_home = np.array([home[row.text] for row in rows])
    for domain in dict.fromkeys(row.domain for row in rows):
        mine = tests(rows, domain)
        shares = [at_home[mine].mean(), *(found[name].right[mine].mean() for name in BY_DOMAIN)]
        domains.add_row(domain, *(f"{share:.1%}" for share in shares))
    console.print(domains)


def figures(rows: Sequence[Row], found: Mapping[str, Line], recipes: Sequence[str]) -> dict[str, float]:
    """What goes into the benchmark's last line; the recipe is the one that select rows choose, the first of equals."""
    best = max(recipes, key=lambda name: found[name].chosen(rows))
    gain, pooled = against_auto(rows, found, best), against_auto(rows, found, "pooled adapter")
    console.print(f"The recipe that select rows choose: {best}")
    told = {
        "mixed_base": "base",
        "mixed_best_single": "best single adapter",
        "mixed_pooled": "pooled adapter",
        "mixed_merge": "uniform merge",
        "mixed_self_consistency": "self-consistency",
        "mixed_auto": AUTO,
        "mixed_best_recipe": best,
        "mixed_domain_oracle": "domain oracle",
        "mixed_any_oracle": "any adapter right",
    }
    return {figure: float(found[name].right[tests(rows)].mean()) for figure, name in told.items()} | {
        "mixed_gain_points": 100 * gain.point,
        "mixed_gain_low": 100 * gain.low,
        "mixed_pooled_gain_points": 100 * pooled.point,
        "mixed_pooled_gain_low": 100 * pooled.low,
    }
