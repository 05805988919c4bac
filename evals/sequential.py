"""Whether people like one kind of answer less than another, told while feedback comes in, at any moment, honestly.

Feedback is looked at after every word, so a fixed-sample test would sooner or later cry wolf. Here the evidence is the
wealth of a gambler who bets against "ours are liked at least as well": while that is true his wealth is no more
than a fair game's, and the chance that it *ever* reaches 1/alpha is at most alpha (Ville 1939), however often one
looks and whenever one stops. The bets and the sequence of bounds follow Waudby-Smith & Ramdas 2024 (JRSS-B 86:1,
Estimating means of bounded random variables by betting); an even mixture over fixed stakes needs no tuning.

One round of the game takes the words in the order in which they came and closes as soon as both sides have spoken: its
gain is the mean of ours less the mean of theirs, from -1 to 1. Feedback on the two need not be equally frequent.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evals.statistics import ALPHA

LEAST = 30
"""Words on each side before anything is concluded: the first few may all be one person's."""
STAKES = np.linspace(0.05, 0.95, 19)
"""Shares of the wealth that the mixed gamblers bet each round; below 1, so that none is ever ruined."""


@dataclass(frozen=True)
class Comparison:
    """What the feedback amounts to so far.

    Attributes:
        ours: Words on our answers.
        theirs: Words on the others.
        rounds: Closed rounds.
        gain: Mean gain of a round; 0 without any.
        upper: The gain is below this, at any time, with confidence 1 - alpha.
        worse: It has been shown that ours are liked less.
        lower: The gain is above this, at any time, with confidence 1 - alpha.
    """

    ours: int
    theirs: int
    rounds: int
    gain: float
    upper: float
    worse: bool
    lower: float = -1.0


def compare(words: Iterable[tuple[bool, float]], *, alpha: float = ALPHA, least: int = LEAST) -> Comparison:
    """Play the game over all feedback.

    Args:
        words: In the order in which they came: whether it is on one of our answers, and how good that was, 0 to 1.
        alpha: The chance of ever calling answers worse that are liked as well.
        least: Words on each side before the first conclusion.
    """
    gains: list[float] = []
    open_words: dict[bool, list[float]] = {True: [], False: []}
    counts, ready = {True: 0, False: 0}, 0
    for ours, good in words:
        counts[ours] += 1
        open_words[ours].append(good)
        if open_words[True] and open_words[False]:
            gains.append(float(np.mean(open_words[True]) - np.mean(open_words[False])))
            open_words = {True: [], False: []}
        if min(counts.values()) < least:
            ready = len(gains)
    played = np.array(gains)
    upper, lower = _upper(played, ready, alpha), -_upper(-played, ready, alpha)
    mean = float(np.mean(gains)) if gains else 0.0
    return Comparison(counts[True], counts[False], len(gains), mean, upper, upper < 0, lower)


def log_wealth(gains: NDArray[np.float64], least_gain: float = 0.0) -> NDArray[np.float64]:
    """Log wealth of a gambler against a mean gain of at least `least_gain`, after each round `[rounds]`.

    Each stake's factor is 1 + stake * (least_gain - gain) / (1 - least_gain): at least 1 - stake, and of mean at most
    1 while the mean gain is what he bets against.
    """
    short = (least_gain - gains) / max(1 - least_gain, 1e-9)
    paths = np.cumsum(np.log1p(np.outer(STAKES, short)), axis=1)
    found: NDArray[np.float64] = np.logaddexp.reduce(paths, axis=0) - np.log(len(STAKES))
    return found


def _upper(gains: NDArray[np.float64], ready: int, alpha: float) -> float:
    """The smallest mean gain that some moment's wealth refutes; 1 when there is none. Wealth grows with the gain."""
    if len(gains) <= ready:
        return 1.0

    def refuted(gain: float) -> bool:
        return bool((log_wealth(gains, gain)[ready:] >= -np.log(alpha)).any())

    low, high = -1.0, 1.0 - 1e-6
    if not refuted(high):
        return 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high
