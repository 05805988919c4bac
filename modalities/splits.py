"""Four splits by group and near-duplicate cluster, stratified by label, the same for the same content and seed."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from moatelier.contracts import CurationDecision, SplitName
from moatelier.errors import DataError
from moatelier.ids import digest_json
from modalities.base import Example
from modalities.clusters import UnionFind

SPLITS: tuple[SplitName, ...] = ("train", "dev", "select", "test")

R = TypeVar("R", bound=Example)


@dataclass(frozen=True)
class Unit(Generic[R]):
    """Rows that must stay together. `label` is their commonest, `key` orders units by content and seed."""

    rows: tuple[R, ...]
    label: str
    key: str


def divide(
    kept: Sequence[R],
    clusters: Sequence[Sequence[int]],
    decision: CurationDecision,
    seed: int,
    test_rows: Sequence[R] | None = None,
) -> dict[SplitName, list[R]]:
    """Divide rows among the splits of `decision.fractions`.

    A class with as many independent rows as there are splits has at least one row in each.

    Args:
        kept: The rows that `is_kept` keeps.
        clusters: Numbers of rows that must stay together, as rows of one group must.
        decision: The curator's.
        seed: Another one divides otherwise.
        test_rows: Of a separate test file: they become the split `test` as they are.

    Raises:
        DataError: A split would stay empty.
    """
    fractions = {name: decision.fractions[name] for name in SPLITS if decision.fractions.get(name, 0) > 0}
    placed: dict[SplitName, list[R]] = {name: [] for name in fractions}
    strata: dict[str, list[Unit[R]]] = defaultdict(list)
    for unit in _units(kept, clusters, seed):
        strata[unit.label].append(unit)
    for label in sorted(strata):
        for name, units in _place(strata[label], fractions).items():
            placed[name].extend(row for unit in units for row in unit.rows)
    left_out = set(decision.left_out_of_train)
    placed["train"] = [row for row in placed.get("train", []) if row.number not in left_out]
    if test_rows is not None:
        placed["test"] = [row for row in test_rows if row.problem is None]
    _refuse_empty(placed, kept)
    return {name: sorted(found, key=lambda row: row.number) for name, found in placed.items()}


def is_kept(row: Example, decision: CurationDecision) -> bool:
    """Whether a row can be used and the curator did not drop it."""
    return row.problem is None and row.number not in decision.drop


def _units(rows: Sequence[R], clusters: Sequence[Sequence[int]], seed: int) -> list[Unit[R]]:
    position = {row.number: index for index, row in enumerate(rows)}
    sets = UnionFind(len(rows))
    groups: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.group is not None:
            groups[row.group].append(index)
    kept_clusters = [[position[number] for number in cluster if number in position] for cluster in clusters]
    for members in [*kept_clusters, *groups.values()]:
        for member in members[1:]:
            sets.join(members[0], member)
    return [_unit([rows[index] for index in members], seed) for members in sets.sets()]


def _unit(rows: Sequence[R], seed: int) -> Unit[R]:
    counts = Counter(row.label or "" for row in rows)
    label = min(counts, key=lambda name: (-counts[name], name))
    return Unit(tuple(rows), label, digest_json([seed, sorted(row.id for row in rows)]))


def _place(units: Sequence[Unit[R]], fractions: Mapping[SplitName, float]) -> dict[SplitName, list[Unit[R]]]:
    """Place one class: big units first, each where most room is left; the last ones go where nothing is yet."""
    room = _quotas(sum(len(unit.rows) for unit in units), fractions)
    placed: dict[SplitName, list[Unit[R]]] = {name: [] for name in fractions}
    ordered = sorted(units, key=lambda unit: (-len(unit.rows), unit.key))
    for index, unit in enumerate(ordered):
        empty = [name for name in placed if not placed[name]]
        choices = empty if empty and len(ordered) - index <= len(empty) else list(placed)
        name = max(choices, key=lambda name: (room[name], fractions[name], -SPLITS.index(name)))
        placed[name].append(unit)
        room[name] -= len(unit.rows)
    return placed


def _quotas(total: int, fractions: Mapping[SplitName, float]) -> dict[SplitName, int]:
    """Whole rows for each split by largest remainder, at least one each if there are enough."""
    exact = {name: total * fraction / sum(fractions.values()) for name, fraction in fractions.items()}
    least = 1 if total >= len(fractions) else 0
    quotas = {name: max(least, math.floor(value)) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (quotas[name] - exact[name], SPLITS.index(name)))
    while (missing := total - sum(quotas.values())) != 0:
        if missing > 0:
            quotas[by_remainder[0]] += 1
            by_remainder.append(by_remainder.pop(0))
        else:  # the minimum of one was taken from the biggest
            quotas[max(quotas, key=lambda name: quotas[name])] -= 1
    return quotas


def _refuse_empty(placed: Mapping[SplitName, Sequence[R]], kept: Sequence[R]) -> None:
    for name, found in placed.items():
        if not found:
            raise DataError(
                f"{len(kept)} rows are left after cleaning, too few or too alike to fill the split {name!r}.",
                where=kept[0].file if kept else "",
                remedy="Add rows that differ from each other.",
            )
