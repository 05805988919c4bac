"""Rows that are no independent draws: how many independent ones they are worth.

Rows of one group (a document's, a speaker's, a customer's) tend to be right or wrong together. Counted one by one they
would claim a certainty that is not there. By how much the variance of the mean is larger than that of independent rows
(the design effect) is measured on the rows themselves, and the exact intervals then count that many fewer of them.

    Kish 1965, Survey Sampling                            the design effect
    Korn & Graubard 1998, Survey Methodology 24:193       exact intervals of the effective number of rows
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evals.bootstrap import Floats


def worth(values: Floats | NDArray[np.bool_], groups: Sequence[str | None]) -> float:
    """The share of the rows that counts: effective rows by rows, above 0 and at most 1.

    Args:
        values: What is averaged: right or wrong, or a paired difference [rows].
        groups: Of each row; None is a row of its own.
    """
    codes = _codes(groups)
    count, rows = int(codes.max(initial=-1)) + 1, len(codes)
    if count < 2 or count == rows:
        return 1.0
    off = np.asarray(values, dtype=float) - float(np.mean(values))
    alone = float((off**2).sum())
    if alone < 1e-12:  # all alike: nothing tells how they hang together
        return 1.0
    together = float((np.bincount(codes, off, count) ** 2).sum()) * count / (count - 1)
    return 1 / min(max(1.0, together / alone), rows / 2)  # two rows at least: an interval needs some


def _codes(groups: Sequence[str | None]) -> NDArray[np.intp]:
    named = [f"row {number}" if group is None else f"group {group}" for number, group in enumerate(groups)]
    return np.unique(named, return_inverse=True)[1].astype(np.intp) if named else np.zeros(0, dtype=np.intp)
