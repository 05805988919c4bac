"""The router card: how well `auto` would do over a project's adapters, on their dev rows with the domain hidden.

The calibration that goes live is fitted on all held-out rows; every figure on the card is cross-fitted, so that no row
is judged by a calibration that has seen it. Pure functions of vectors: no model is needed.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evals.statistics import clopper_pearson, paired_difference
from moatelier.contracts import Calibration, HeldOut, RouterCard, RouterProfile
from moatelier.errors import DataError
from serving.calibration import OUT_SHARE, auroc, expected_error, fit, probabilities
from serving.prototypes import Vectors, unpack
from serving.router import Router

FOLDS = 5
MOST_ROWS = 4000
"""Held-out rows of all adapters together; with many adapters each brings fewer, but four at least."""
TIE = 1e-6
"""Similarities closer than this are equal but for rounding."""
TIMED = 64
Bools = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Trial:
    """Held-out rows and texts of nobody, scored by all adapters.

    Attributes:
        adapters: In the order of the columns.
        vectors: The held-out rows `[rows, dims]`.
        scores: Their cosines with each adapter `[rows, adapters]`.
        owners: The column each row belongs to `[rows]`.
        right: Whether the own adapter answers it rightly `[rows]`.
        far: Cosines of the general sentences `[out, adapters]`.
    """

    adapters: tuple[str, ...]
    vectors: Vectors
    scores: Floats
    owners: NDArray[np.intp]
    right: Bools
    far: Floats

    @property
    def near(self) -> Floats | None:
        """The cosines of the rows when their own adapter is taken away `[rows, adapters]`; None with one adapter."""
        if len(self.adapters) < 2:
            return None
        others = np.array(self.scores)
        others[np.arange(len(others)), self.owners] = -1.0
        return others


def trial(profiles: Sequence[RouterProfile], held_out: Mapping[str, HeldOut], general: Vectors) -> Trial:
    """Score everything once.

    Raises:
        DataError: No adapter has a held-out row.
    """
    router = Router(profiles)
    each = max(4, MOST_ROWS // max(1, len(profiles)))
    kept = [held_out[adapter] for adapter in router.adapters]
    parts = [unpack(rows.vectors, router.dims)[:each] for rows in kept]
    vectors = np.concatenate(parts)
    if not len(vectors):
        raise DataError("No adapter has a dev row to calibrate the router on.", remedy="Give more rows.")
    return Trial(
        adapters=router.adapters,
        vectors=vectors,
        scores=router.scores(vectors),
        owners=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        right=np.array([right for rows in kept for right in rows.right[:each]], dtype=bool),
        far=router.scores(general),
    )


def calibrate(tried: Trial, rows: Bools | None = None, far: Bools | None = None) -> Calibration:
    """Fit the calibration on some of the rows and sentences; default: on all."""
    rows = np.ones(len(tried.scores), dtype=bool) if rows is None else rows
    far = np.ones(len(tried.far), dtype=bool) if far is None else far
    near = None if tried.near is None else tried.near[rows].max(axis=1)
    return fit(tried.scores[rows], tried.owners[rows], tried.far[far].max(axis=1), near)


def told_apart(tried: Trial, adapter: str) -> tuple[str | None, float]:
    """The adapter that is hardest to tell from this one, and how often the two are told apart (0.5 is chance).

    Over the held-out rows of both, and only these two to choose from: the share that lies nearer to its own, the mean
    of the two shares. Ties count half. (None, 1.0) with one adapter.
    """
    column = tried.adapters.index(adapter)
    own = tried.scores[np.arange(len(tried.scores)), tried.owners]
    counts = np.maximum(np.bincount(tried.owners, minlength=len(tried.adapters)), 1)
    theirs = np.bincount(tried.owners, weights=_ahead(own - tried.scores[:, column]), minlength=len(counts)) / counts
    mine = tried.owners == column
    ours = _ahead(own[mine, None] - tried.scores[mine]).mean(axis=0) if mine.any() else np.ones(len(counts))
    shares = (ours + theirs) / 2
    shares[column] = 1.0
    if len(shares) < 2:
        return None, 1.0
    twin = int(shares.argmin())
    return tried.adapters[twin], round(float(shares[twin]), 4)


def _ahead(difference: Floats) -> Floats:
    # Equal prototypes in two columns of one product may differ in their last bit, by the machine's kernels.
    tie = np.abs(difference) < TIE
    return np.asarray(((difference > 0) & ~tie) + tie / 2, dtype=float)


def card(tried: Trial, profiles: Sequence[RouterProfile], adapter: str, *, seed: int = 0) -> RouterCard:
    """The card, written by the registration of `adapter`."""
    calibration = calibrate(tried)
    chances, far, near = _cross_fitted(tried, seed)
    base = len(tried.adapters)
    chosen = chances.argmax(axis=1)
    at_home = chosen == tried.owners
    single = int(np.bincount(tried.owners, weights=tried.right, minlength=base).argmax())
    drawn = np.random.default_rng(seed).integers(base, size=len(chosen)) == tried.owners
    ours, alone = at_home & tried.right, (tried.owners == single) & tried.right
    best, p50, p95 = tried.scores.max(axis=1), *_latency(Router(profiles, calibration), tried.vectors)
    oracle = int(tried.right.sum())
    return RouterCard(
        adapter=adapter,
        adapters=tried.adapters,
        embedding_digest=profiles[0].embedding_digest,
        rows=len(chosen),
        out_rows=len(far) + len(near),
        ours=_rate(ours),
        random=_rate(drawn & tried.right),
        best_single=_rate(alone),
        best_single_adapter=tried.adapters[single],
        oracle=_rate(tried.right),
        against_best_single=paired_difference(tried.adapters[single], ours, alone, seed=seed),
        share_of_oracle=round(int(ours.sum()) / oracle, 6) if oracle else 0.0,
        routed_right=_rate(at_home),
        abstained=_rate(chosen == base),
        calibration_error=round(expected_error(chances.max(axis=1), at_home), 6),
        calibration_error_mixed=round(_mixed_error(chances, at_home, [far, near]), 6),
        auroc=round(auroc(best, tried.far.max(axis=1)), 6) if len(tried.far) else None,
        auroc_near=None if tried.near is None else round(auroc(best, tried.near.max(axis=1)), 6),
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        calibration=calibration,
    )


def _rate(right: Bools) -> Any:
    return clopper_pearson(int(right.sum()), len(right))


def _cross_fitted(tried: Trial, seed: int) -> tuple[Floats, Floats, Floats]:
    """Probabilities of the rows, the sentences and the rows without their adapter, each by folds that lack them."""
    random, columns = np.random.default_rng(seed), len(tried.adapters) + 1
    fold, far_fold = (random.permutation(size) % FOLDS for size in (len(tried.scores), len(tried.far)))
    near = tried.near
    sizes = len(tried.scores), len(tried.far), 0 if near is None else len(near)
    found = [np.zeros((size, columns)) for size in sizes]
    for number in range(FOLDS):
        known = calibrate(tried, fold != number, far_fold != number)
        found[0][fold == number] = probabilities(tried.scores[fold == number], known)
        found[1][far_fold == number] = probabilities(tried.far[far_fold == number], known)
        if near is not None:
            found[2][fold == number] = probabilities(near[fold == number], known)
    return found[0], found[1], found[2]


def _mixed_error(chances: Floats, at_home: Bools, out: Sequence[Floats]) -> float:
    """Calibration error at the share of out-of-domain requests that the calibration assumes."""
    given = [part for part in out if len(part)]
    confidence = [chances.max(axis=1), *(part.max(axis=1) for part in given)]
    right = [at_home, *(part.argmax(axis=1) == part.shape[1] - 1 for part in given)]
    weights = [np.full(len(chances), (1 - OUT_SHARE) / len(chances))]
    weights += [np.full(len(part), OUT_SHARE / len(given) / len(part)) for part in given]
    return expected_error(np.concatenate(confidence), np.concatenate(right), np.concatenate(weights))


def _latency(router: Router, vectors: Vectors) -> tuple[float, float]:
    """p50 and p95 of one choice, in milliseconds, without the embedding."""
    seconds = []
    for vector in np.resize(vectors, (TIMED, vectors.shape[1])):
        begun = time.perf_counter()
        router.route(vector)
        seconds.append(time.perf_counter() - begun)
    middle, late = np.quantile(seconds, [0.5, 0.95])
    return round(1000 * float(middle), 3), round(1000 * float(late), 3)
