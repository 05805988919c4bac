"""Scores of transcripts: words and characters by jiwer, after openai-whisper's usual normaliser, with bounds.

Word accuracy is one less the word error rate, so that more is better as it is for every other metric; where more words
are wrong than were said it is below zero. Rows are resampled whole, since the words of one recording stand or fall
together. A transcript is exact when no word of it differs.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evals.answered import Answered, Scores
from evals.bootstrap import Floats, Statistic
from evals.statistics import CLAIM_ALPHA, bca_interval, clopper_pearson, exact_lower, paired_difference, paired_rates
from moatelier.contracts import Interval, MetricName, PairedComparison
from modalities import registry

_METRICS = "modalities.audio.metrics"
"""Loaded when transcripts are scored: openai-whisper comes with torch."""
_LETTERS = re.compile(r"[^\W\d_]")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff]")
"""Scripts without blanks between words: there every character is one."""


@dataclass(frozen=True)
class Heard:
    """Transcripts against what was said; all arrays are `[rows]`.

    Attributes:
        words: How many were said.
        word_errors: Substituted, deleted and inserted ones.
        chars: How many were said, blanks counted.
        char_errors: As for words.
        exact: Whether nothing differs.
    """

    words: Floats
    word_errors: Floats
    chars: Floats
    char_errors: Floats
    exact: NDArray[np.bool_]


def hear(rows: Sequence[Answered]) -> Heard:
    """Compare the answers with what was said."""
    metrics: Any = registry.load(_METRICS)
    language = _language([row.truth for row in rows])
    found = [metrics.row_errors(row.truth, row.answer, language) for row in rows]

    def each(name: str) -> Floats:
        return np.array([getattr(one, name) for one in found], dtype=float)

    return Heard(each("words"), each("word_errors"), each("chars"), each("char_errors"), each("exact").astype(bool))


def score_words(rows: Sequence[Answered], *, alpha: float = CLAIM_ALPHA, seed: int = 0) -> Scores:
    """Score transcripts; `per_class` has the figures of each speaker where rows tell who speaks.

    Args:
        rows: At least one.
        alpha: One-sided level of every `claim_low`.
        seed: Fixes the bootstrap's resamples.

    Raises:
        DataError: There are no rows.
    """
    heard = hear(rows)
    exact = clopper_pearson(int(heard.exact.sum()), len(rows), alpha=alpha)
    words = _accuracy_interval(heard.words, heard.word_errors, exact, alpha=alpha, seed=seed)
    chars = _accuracy_interval(heard.chars, heard.char_errors, exact, alpha=alpha, seed=seed)
    return Scores(
        metrics={"word_accuracy": words, "exact_match": exact, "wer": _error(words), "cer": _error(chars)},
        natural_stop_rate=sum(row.stopped for row in rows) / len(rows),
        per_class=_by_speaker(rows, heard),
    )


def compare_words(
    metric: MetricName,
    other: str,
    ours: Sequence[Answered],
    theirs: Sequence[Answered],
    *,
    alpha: float = CLAIM_ALPHA,
    seed: int = 0,
) -> PairedComparison:
    """Compare two subjects' transcripts of the same recordings in the same order.

    By word accuracy a row is won that has fewer errors than the other's; by exact match one that alone is exact.
    """
    mine, others = hear(ours), hear(theirs)
    if metric != "word_accuracy":
        return paired_difference(other, mine.exact, others.exact, alpha=alpha, seed=seed)
    fewer, more = mine.word_errors < others.word_errors, mine.word_errors > others.word_errors
    first, second = accuracy(mine.words, mine.word_errors), accuracy(others.words, others.word_errors)

    def difference(weights: Floats) -> Floats:
        return first(weights) - second(weights)

    compared = paired_difference(other, fewer, more, alpha=alpha, seed=seed)
    rates = _paired_words(mine, others, alpha)
    margin = rates.point - rates.claim_low
    interval = bca_interval(difference, len(ours), rates, least_margin=margin, alpha=alpha, seed=seed)
    return compared.model_copy(update={"difference": interval})


def accuracy(said: Floats, errors: Floats) -> Statistic:
    """One less the error rate, as a function of row weights [draws, rows] -> [draws].

    Args:
        said: Words, or characters, of each row [rows].
        errors: How many of each row are wrong [rows].
    """

    def statistic(weights: Floats) -> Floats:
        found: Floats = 1 - (weights @ errors) / np.maximum(weights @ said, 1.0)
        return found

    return statistic


def _accuracy_interval(said: Floats, errors: Floats, exact: Interval, *, alpha: float, seed: int) -> Interval:
    """The bootstrap interval with a careful bound: alone it missed in up to 8 % of simulations where 1 % was stated.

    No resampling shows errors that these rows do not hold. So the bound is never closer to the point than the exact one
    of as many draws of right or wrong as these words, by how they go wrong together, are worth.
    """
    statistic = accuracy(said, errors)
    point = float(statistic(np.ones((1, len(said))))[0])
    rate = min(max(point, 0.0), 1.0)
    draws = _draws(said, errors - (1 - point) * said, rate * (1 - rate + _unseen(said)))
    margin = rate - exact_lower(rate * draws, draws, alpha)
    return bca_interval(statistic, len(said), exact, least_margin=margin, alpha=alpha, seed=seed)


def _paired_words(mine: Heard, others: Heard, alpha: float) -> Interval:
    """Tango's interval of the difference: the words that were won and lost, in as many draws as they are worth."""
    said, gained = mine.words, others.word_errors - mine.word_errors
    total = max(float(said.sum()), 1.0)
    won, lost = (float(np.maximum(part, 0).sum()) / total for part in (gained, -gained))
    most = max(won + lost, 1.0)  # errors may outnumber the words
    draws = _draws(said, gained - (won - lost) * said, max(won + lost + _unseen(said) - (won - lost) ** 2, 0.0))
    return paired_rates(won / most * draws, lost / most * draws, draws, alpha=alpha)


def _draws(said: Floats, apart: Floats, spread: float) -> float:
    """How many independent draws the words are worth: fewer than they are where those of a row go wrong together.

    The variance of a mean over rows of unequal lengths (a ratio estimator's), with half a typical row more, wholly
    wrong, against that of one draw. Simulated for rows of 1 to 25 and more words whose errors come alone or in rows,
    bounds that rest on it missed in at most 1.3 % of 600 runs in each of 24 cases.

    Args:
        said: Words of each row [rows].
        apart: How far each row lies from the mean, in words [rows].
        spread: Variance of one draw.
    """
    total = max(float(said.sum()), 1.0)
    variance = (float((apart**2).sum()) + _typical(said) ** 2 / 2) / total**2
    return min(max(spread / variance, 1.0), total)


def _unseen(said: Floats) -> float:
    """The share of the words that half a row has."""
    return _typical(said) / 2 / max(float(said.sum()), 1.0)


def _typical(said: Floats) -> float:
    """Length of the row that a typical word stands in."""
    total = float(said.sum())
    return float((said**2).sum()) / total if total else 1.0


def _error(right: Interval) -> Interval:
    """An accuracy's interval as that of the error rate. Nothing is claimed by a rate of which less is better."""
    low, high = 1 - right.high, 1 - right.low
    return Interval(point=1 - right.point, low=low, high=high, claim_low=low, method=right.method)


def _by_speaker(rows: Sequence[Answered], heard: Heard) -> dict[str, dict[str, float]]:
    speakers = np.array([row.group or "" for row in rows])
    if not any(speakers):
        return {}
    found = {}
    for speaker in sorted(set(speakers)):
        own = speakers == speaker
        words, chars = max(heard.words[own].sum(), 1.0), max(heard.chars[own].sum(), 1.0)
        wer = float(heard.word_errors[own].sum() / words)
        found[str(speaker) or "(unknown)"] = {
            "word_accuracy": 1 - wer,
            "exact_match": float(heard.exact[own].mean()),
            "wer": wer,
            "cer": float(heard.char_errors[own].sum() / chars),
            "support": float(own.sum()),
        }
    return found


def _language(texts: Sequence[str]) -> str:
    """Whose rules to normalise by: English ones where letters are plain; "zh" where no blanks stand between words."""
    letters = _LETTERS.findall(" ".join(texts))
    if sum(bool(_UNSPACED.match(letter)) for letter in letters) > len(letters) / 2:
        return "zh"
    return "en" if sum(letter.isascii() for letter in letters) >= 0.95 * len(letters) else "other"
