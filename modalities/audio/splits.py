"""Four splits of recordings: who speaks in the locked test speaks nowhere else, wherever there are enough speakers.

Speakers and sources tie rows together; so do equal samples. With many of them every split has its own. With a few only
the test is kept apart, since it is what a claim rests on: dev and select are then taken from the training speakers, and
their scores flatter. With one speaker nothing can be kept apart.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from moatelier.contracts import CurationDecision, DataFindings, SplitName
from modalities.audio.rows import AudioRow
from modalities.clusters import UnionFind
from modalities.splits import SPLITS, divide, is_kept

Apart = Literal["all", "test", "none"]
"""Which splits have speakers and sources of their own."""
MANY = 12
"""Independent speakers or sources from which on each split gets its own: three for each on average."""


def split_rows(
    rows: Sequence[AudioRow],
    findings: DataFindings,
    decision: CurationDecision,
    seed: int,
    test_rows: Sequence[AudioRow] | None = None,
) -> dict[SplitName, list[AudioRow]]:
    """Divide the rows that are kept among the splits of `decision.fractions`, see `modalities.splits.divide`.

    The rows of a separate test set become the split `test` as they are.

    Raises:
        DataError: A split would stay empty.
    """
    kept = [row for row in rows if is_kept(row, decision)]
    same = findings.clusters
    tied = [*same, *_ties(kept)]
    apart = kept_apart(kept, findings, test_rows is not None)
    if apart == "all":
        return _divide(kept, tied, decision, seed, test_rows)
    if apart == "none" or test_rows is not None:
        return divide(kept, same, decision, seed, test_rows)
    shares = {name: decision.fractions[name] for name in SPLITS if decision.fractions.get(name, 0) > 0}
    locked = shares.pop("test")
    outer = decision.model_copy(
        update={"fractions": {"train": sum(shares.values()), "test": locked}, "left_out_of_train": ()}
    )
    halves = _divide(kept, tied, outer, seed, None)
    inner = decision.model_copy(update={"fractions": shares})
    return divide(halves["train"], same, inner, seed) | {"test": halves["test"]}


def kept_apart(rows: Sequence[AudioRow], findings: DataFindings, own_test: bool = False) -> Apart:
    """Which splits can have speakers and sources of their own, by how many independent ones there are.

    Args:
        rows: Those that are kept.
        findings: Their clusters of equal samples.
        own_test: Whether there is a separate test set.
    """
    position = {row.number: index for index, row in enumerate(rows)}
    sets = UnionFind(len(rows))
    ties = _ties(rows)
    for numbers in [*findings.clusters, *ties]:
        members = [position[number] for number in numbers if number in position]
        for member in members[1:]:
            sets.join(members[0], member)
    independent = len({sets.root(position[numbers[0]]) for numbers in ties})
    if not ties or independent < 2:
        return "none"
    if independent >= MANY:
        return "all"
    return "none" if own_test else "test"


def _ties(rows: Sequence[AudioRow]) -> list[list[int]]:
    """The rows' numbers by speaker and by source; a source that all rows have says nothing."""
    found: Mapping[tuple[str, str], list[int]] = defaultdict(list)
    for row in rows:
        for kind, value in (("speaker", row.speaker), ("source", row.source)):
            if value:
                found[kind, value].append(row.number)
    return [numbers for (kind, _), numbers in found.items() if kind == "speaker" or len(numbers) < len(rows)]


def _divide(
    rows: Sequence[AudioRow],
    tied: Sequence[Sequence[int]],
    decision: CurationDecision,
    seed: int,
    test_rows: Sequence[AudioRow] | None,
) -> dict[SplitName, list[AudioRow]]:
    """Divide without regard to labels: one speaker's rows have many, and the commonest of them means nothing."""
    whole = {row.number: row for row in rows}
    placed = divide([replace(row, label=None) for row in rows], tied, decision, seed)
    found = {name: [whole[row.number] for row in part] for name, part in placed.items()}
    if test_rows is not None:
        found["test"] = [row for row in test_rows if row.problem is None]
    return found
