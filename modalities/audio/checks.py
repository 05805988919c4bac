"""What is wrong with recordings: facts for the curator, found by hearing each once. Nothing here imports torch."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from moatelier.contracts import AudioFindings
from modalities.audio.config import LONGEST_WINDOW_S, token_limit
from modalities.audio.rows import AudioRow, Hearing, speakers_of
from modalities.checks import check_locked, check_rows
from modalities.clusters import exact_groups
from modalities.text.duplicates import normalise

SHORT_S = 0.1
CLIPPED = 0.001
SHORTEST_WINDOW_S = 3.0
"""Nothing is gained below: the encoder has 150 positions then, and longer recordings would fall into many pieces."""
_SLACK_S = 0.2
_NEARLY_ALL = 0.995
_APART = "in their samples"
_SPREAD = 4.0
"""Robust standard deviations below the median from which on a transcript's likelihood is out of the ordinary."""


def check(rows: Sequence[AudioRow], test_rows: Sequence[AudioRow] | None = None) -> None:
    """The cheap part of `find`: refuse rows that cannot make a dataset. Raises DataError."""
    usable = [row for row in rows if row.problem is None]
    copies = _copies(usable)
    distinct = [row for row in usable if row.number not in copies]
    check_rows(rows, usable, distinct, exact_groups(row.samples for row in usable), _APART)
    if test_rows is not None:
        check_locked(usable, test_rows, [row for row in test_rows if row.problem is None], None, 0)


def find(
    rows: Sequence[AudioRow],
    *,
    test_rows: Sequence[AudioRow] | None = None,
    count_tokens: Callable[[str], int] | None = None,
    likelihood: Callable[[AudioRow], float | None] | None = None,
    window_s: float | None = None,
) -> AudioFindings:
    """Report what the curator decides on.

    Args:
        rows: From `read_rows`.
        test_rows: The locked rows of a separate test set.
        count_tokens: Length of a transcript in tokens; without it none is too long.
        likelihood: How likely the base finds a row's transcript, in nats a token, see `modalities.audio.teaching`;
            None for rows that it was not asked about. Without it no transcript is taken for another recording's.
        window_s: The window to hold; default: the one that fits the rows.

    Raises:
        DataError: The rows cannot make a dataset: one label only, a class with one row, spellings of a label that
            differ in case, nothing but duplicates, or locked rows that nobody could answer.
    """
    check(rows, test_rows)
    usable = [row for row in rows if row.problem is None]
    hearings = [_hearing(row) for row in usable]
    loud = [hearing.inner_s for hearing in hearings if not hearing.silent]
    window = fit_window(loud) if window_s is None else window_s
    locked = {row.samples for row in test_rows or () if row.problem is None}
    both = list(zip(usable, hearings, strict=True))
    return AudioFindings(
        rows=len(rows),
        labels=dict(sorted(Counter(row.label for row in usable if row.label is not None).items())),
        exact_duplicates=tuple(sorted(_copies(usable))),
        conflicting=_conflicting(usable),
        clusters=tuple(tuple(usable[i].number for i in group) for group in exact_groups(row.samples for row in usable)),
        near_test=tuple(row.number for row in usable if row.samples in locked),
        too_long=tuple(row.number for row, hearing in both if _is_too_long(row, hearing, window, count_tokens)),
        problems=tuple(row.problem for row in rows if row.problem is not None),
        window_s=window,
        seconds={"total": round(sum(row.seconds for row in usable), 1)} | lengths([row.seconds for row in usable]),
        silent=tuple(row.number for row, hearing in both if hearing.silent),
        clipped=tuple(row.number for row, hearing in both if hearing.clipped > CLIPPED),
        short=tuple(row.number for row in usable if row.seconds < SHORT_S),
        mismatched=_mismatched(usable, likelihood) if likelihood else (),
        rates=rates(hearings),
        speakers=speakers_of(usable),
        licences=dict(sorted(Counter(row.licence for row in usable if row.licence).items())),
    )


def fit_window(seconds: Sequence[float]) -> float:
    """The window for recordings of these lengths: all but the longest 0.5 % fit, with some slack, in half seconds.

    Whisper's encoder works in proportion to it, so that short commands should not wait for 30 s of silence. It is
    never shorter than 3 s nor longer than 30.
    """
    if not len(seconds):
        return LONGEST_WINDOW_S
    nearly = float(np.quantile(seconds, _NEARLY_ALL, method="higher")) + _SLACK_S
    return min(LONGEST_WINDOW_S, max(SHORTEST_WINDOW_S, math.ceil(nearly * 2) / 2))


def _hearing(row: AudioRow) -> Hearing:
    assert row.hearing is not None, "rows that were parsed have not been heard"
    return row.hearing


def lengths(seconds: Sequence[float]) -> dict[str, float]:
    """Lengths in seconds: min, p50, p95, max."""
    if not len(seconds):
        return {}
    low, p50, p95, high = (round(float(value), 3) for value in np.percentile(seconds, [0, 50, 95, 100]))
    return {"min": low, "p50": p50, "p95": p95, "max": high}


def rates(hearings: Sequence[Hearing]) -> dict[int, int]:
    """Samples a second -> recordings."""
    return dict(sorted(Counter(hearing.rate for hearing in hearings).items()))


def _copies(rows: Sequence[AudioRow]) -> set[int]:
    keys = ((row.samples, row.label, normalise(row.text or "")) for row in rows)
    return {rows[i].number for group in exact_groups(keys) for i in group[1:]}


def _conflicting(rows: Sequence[AudioRow]) -> tuple[int, ...]:
    """Rows with equal samples of which different things are told; for what is said there is one truth, too."""
    groups = exact_groups(row.samples for row in rows)
    torn = [group for group in groups if len({normalise(rows[i].target) for i in group}) > 1]
    return tuple(sorted(rows[i].number for group in torn for i in group))


def _is_too_long(row: AudioRow, hearing: Hearing, window_s: float, count_tokens: Callable[[str], int] | None) -> bool:
    if min(hearing.seconds, hearing.inner_s) > window_s:
        return True
    # Whisper's context is 448 tokens in every size.
    return bool(row.text and count_tokens and count_tokens(row.text) >= token_limit(window_s, 448))


def _mismatched(rows: Sequence[AudioRow], likelihood: Callable[[AudioRow], float | None]) -> tuple[int, ...]:
    """Rows far below what is usual among these recordings: the base may know none of them well."""
    asked = [(row.number, likelihood(row)) for row in rows if row.text]
    told = {number: found for number, found in asked if found is not None}
    if not told:
        return ()
    median = float(np.median([*told.values()]))
    spread = 1.4826 * float(np.median([abs(found - median) for found in told.values()]))
    return tuple(number for number, found in told.items() if found < median - _SPREAD * max(spread, 0.1))
