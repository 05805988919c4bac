"""Whether what comes now is still what came before: a window of requests is held against a reference.

    numbers      two-sample Kolmogorov-Smirnov, and the population stability index (PSI) as the size of the shift
    rates        Fisher's exact test
    categories   Pearson's chi-squared, rare ones pooled
    vectors      a domain classifier (C2ST: Lopez-Paz & Oquab 2017, arXiv 1610.06545), cross-fitted, and the kernel
                 two-sample test (MMD: Gretton et al. 2012, JMLR 13:723) by permutations; both have to see it

A look is taken every `STEP` requests, on a window of `WINDOW`: 10,000 requests are 200 looks of some 16 tests. Each
stands at `LEVEL`: the chance that independent, unchanged requests raise anything within them is below 1 %. A
shift has to be material too, since with many requests any is significant, and to last for `PERSISTENCE` looks.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from evals.observing import unpacked

REFERENCE, WINDOW, STEP = 500, 200, 50
PERSISTENCE = 2
LEVEL = 3e-6
PSI = 0.1
"""Below that a shift is not worth a word; 0.25 is usually called large."""
RATE = 0.03
"""Points that a rate must have moved."""
GROWTH = 1.5
"""What may not be more must have grown by this factor, median by median."""
AUC = 0.65
MMD_LEVEL, PERMUTATIONS = 0.01, 199
Kind = Literal["rate", "number", "category", "vector"]
Way = Literal["up", "down", "both"]
Floats = NDArray[np.float64]
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Monitor:
    """What is watched.

    Attributes:
        name: What its alerts are called.
        number: Its name among the numbers of an observation.
        kind: How it is compared.
        way: In which direction a change matters.
    """

    name: str
    number: str
    kind: Kind
    way: Way = "both"


MONITORS: tuple[Monitor, ...] = (
    # functional
    Monitor("errors", "error", "rate", "up"),
    Monitor("latency", "ms", "number", "up"),
    Monitor("prompt_tokens", "prompt_tokens", "number", "up"),
    Monitor("completion_tokens", "completion_tokens", "number", "up"),
    Monitor("cost", "cost", "number", "up"),
    # of prompts
    Monitor("injection", "injection", "rate", "up"),
    Monitor("prompt_toxicity", "prompt_toxic", "rate", "up"),
    Monitor("drift_prompt_length", "prompt_chars", "number"),
    Monitor("drift_language", "language", "category"),
    Monitor("drift_prompts", "vector", "vector"),
    # of answers
    Monitor("refusals", "refusal", "rate", "up"),
    Monitor("parse_rate", "formed", "rate", "down"),
    Monitor("answer_toxicity", "answer_toxic", "rate", "up"),
    Monitor("drift_answer_length", "answer_chars", "number"),
    Monitor("drift_entropy", "entropy", "number"),
    Monitor("repetition", "repetition", "number", "up"),
)


@dataclass(frozen=True)
class Found:
    """One comparison.

    Attributes:
        shifted: The shift is there, and worth a word.
        p: Of no shift.
        size: PSI, points of a rate, or the classifier's AUC.
        before, after: Median, rate, or commonest category; None of vectors.
    """

    shifted: bool
    p: float
    size: float
    before: float | str | None = None
    after: float | str | None = None


def look(reference: Rows, window: Rows) -> dict[str, Found]:
    """Monitor -> its comparison, for all that both have enough numbers of."""
    found = {}
    for monitor in MONITORS:
        before, after = (_of(rows, monitor.number) for rows in (reference, window))
        if len(before) >= REFERENCE / 5 and len(after) >= WINDOW / 4:
            found[monitor.name] = compare(monitor, before, after)
    return found


def _of(rows: Rows, number: str) -> list[Any]:
    return [row[number] for row in rows if row.get(number) is not None]


def compare(monitor: Monitor, before: Sequence[Any], after: Sequence[Any]) -> Found:
    """One monitor's comparison."""
    if monitor.kind == "rate":
        return rates(np.array(before, float), np.array(after, float), monitor.way)
    if monitor.kind == "number":
        return numbers(np.array(before, float), np.array(after, float), monitor.way)
    if monitor.kind == "category":
        return categories(before, after)
    return vectors(np.stack([unpacked(each) for each in before]), np.stack([unpacked(each) for each in after]))


def numbers(before: Floats, after: Floats, way: Way = "both") -> Found:
    """Of numbers `[requests]`: both by KS and by PSI; with a way, the median must have gone there by `GROWTH`."""
    p = float(stats.ks_2samp(before, after, method="asymp").pvalue)
    size, middle = psi(before, after), (float(np.median(before)), float(np.median(after)))
    grown = middle[1] >= GROWTH * max(middle[0], 1e-9) if way == "up" else True
    shifted = p < LEVEL and size >= PSI and grown
    return Found(shifted, p, round(size, 4), round(middle[0], 4), round(middle[1], 4))


def psi(before: Floats, after: Floats, bins: int = 10) -> float:
    """The population stability index over the reference's deciles; each share is at least that of half a request."""
    edges = np.unique(np.quantile(before, np.linspace(0, 1, bins + 1)[1:-1]))
    # Equal numbers are many (lengths, tokens): a bin is what lies at or above its edge.
    shares = []
    for values in (before, after):
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        shares.append(np.maximum(counts, 0.5) / len(values))
    expected, actual = shares
    return float(np.sum((actual - expected) * np.log(actual / expected)))


def rates(before: Floats, after: Floats, way: Way = "both") -> Found:
    """Of zeros and ones `[requests]`."""
    table = [[int(values.sum()), int(len(values) - values.sum())] for values in (before, after)]
    alternative = {"up": "less", "down": "greater", "both": "two-sided"}[way]
    p = float(stats.fisher_exact(table, alternative=alternative).pvalue)
    rate = float(before.mean()), float(after.mean())
    size = abs(rate[1] - rate[0])
    return Found(p < LEVEL and size >= RATE, p, round(size, 4), round(rate[0], 4), round(rate[1], 4))


def categories(before: Sequence[str], after: Sequence[str]) -> Found:
    """Of names; those that are too rare for the test are one."""
    counts = Counter(before), Counter(after)
    total = counts[0] + counts[1]
    share = len(after) / (len(before) + len(after))
    common = [name for name, count in total.items() if count * min(share, 1 - share) >= 5]
    columns = [[count[name] for name in common] for count in counts]
    rest = [sum(count.values()) - sum(column) for count, column in zip(counts, columns, strict=True)]
    table = np.array([[*column, left] for column, left in zip(columns, rest, strict=True)])
    table = table[:, table.sum(axis=0) > 0]
    told = [count.most_common(1)[0][0] for count in counts]
    if table.shape[1] < 2:
        return Found(False, 1.0, 0.0, told[0], told[1])
    shares = table / table.sum(axis=1, keepdims=True)
    size, p = float(np.abs(shares[0] - shares[1]).sum() / 2), float(stats.chi2_contingency(table).pvalue)
    return Found(p < LEVEL and size >= PSI, p, round(size, 4), told[0], told[1])


def vectors(before: NDArray[np.float32], after: NDArray[np.float32], seed: int = 0) -> Found:
    """Of vectors `[requests, dims]`: a classifier tells the two apart on rows it has not seen, and MMD agrees."""
    both = np.concatenate([before, after]).astype(float)
    side = np.concatenate([np.zeros(len(before)), np.ones(len(after))])
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000)
    folds = StratifiedKFold(4, shuffle=True, random_state=seed)
    # Folds have models of their own, whose scores lie apart: within each fold they are ranked.
    ranks = np.zeros(len(both))
    scores = cross_val_predict(model, both, side, cv=folds, method="decision_function")
    for _, held in folds.split(both, side):
        ranks[held] = stats.rankdata(scores[held]) / (len(held) + 1)
    test = stats.mannwhitneyu(ranks[side == 1], ranks[side == 0], alternative="greater")
    area, p = float(test.statistic) / (len(before) * len(after)), float(test.pvalue)
    if p >= LEVEL or area < AUC:
        return Found(False, p, round(area, 4))
    return Found(mmd(before[-len(after) :], after, seed) <= MMD_LEVEL, p, round(area, 4))


def mmd(before: NDArray[np.float32], after: NDArray[np.float32], seed: int = 0) -> float:
    """The p-value of the kernel two-sample test by permutations; a Gaussian kernel of the median distance."""
    both = np.concatenate([before, after]).astype(float)
    squares = (both**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * both @ both.T, 0)
    kernel = np.exp(-distances / max(float(np.median(distances[distances > 0])), 1e-9)) if distances.any() else None
    if kernel is None:
        return 1.0
    signs = np.concatenate([np.full(len(before), 1 / len(before)), np.full(len(after), -1 / len(after))])
    random = np.random.default_rng(seed)
    mixed = np.stack([signs, *(random.permutation(signs) for _ in range(PERMUTATIONS))])
    found = np.einsum("pi,ij,pj->p", mixed, kernel, mixed, optimize=True)
    return float((found >= found[0] - 1e-12).sum() / len(found))


def streaks(before: Mapping[str, int], found: Mapping[str, Found]) -> dict[str, int]:
    """Monitor -> for how many looks in a row it has been shifted."""
    return {name: before.get(name, 0) + 1 for name, one in found.items() if one.shifted}
