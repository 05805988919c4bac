"""The table of a recipe: the recipe beside its proposers alone, routing to one, a vote, and the oracle.

Pure functions of what everybody answered to the same rows. *Routing to one* is what people would get without the
recipe: the router's own choice for each row. Where no router knows the adapters it is the best single model in
hindsight, chosen on these very rows, which is harder to beat than any that could have been chosen before. Where the
commonest answer is right more often than that, as on questions about a picture and a recording of which each model
perceives one, it is always that answer.

Rows of one group (the same question asked twice, or what the data's group column keeps together) are not independent
draws. Where there are such groups, all intervals come from a bootstrap over groups.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evals.bootstrap import Floats, Statistic
from evals.scorers import plain
from evals.statistics import (
    CLAIM_ALPHA,
    bca_interval,
    clopper_pearson,
    mcnemar_exact,
    paired_difference,
    paired_rates,
)
from moatelier.contracts import Interval, MixtureLine, MixtureTable, PairedComparison
from moatelier.errors import DataError

Bools = NDArray[np.bool_]
MOST_FAILED = 0.05
"""Of the rows on which somebody's call failed: more are a fault of the service, and no measure of whoever was asked."""


@dataclass(frozen=True)
class Given:
    """One answer to one row, and its price. A call that failed has `error` set and counts as wrong."""

    text: str
    tokens: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Outcome:
    """What everybody answered to one row.

    Attributes:
        id: The row's.
        group: Rows with the same one count as one draw.
        truth: The expected answer.
        singles: Model -> its answer when it is asked alone; the same models in the same order in every row.
        proposals: Place among the first layer's proposals -> the proposal; the same places in every row.
        routed: The answer of the model that the router chose; None in every row when there is no router.
        recipe: The recipe's answer; its price is that of all its calls.
        instead: The recipe's own way could not be gone, such as when the aggregator failed.
    """

    id: str
    group: str
    truth: str
    singles: Mapping[str, Given]
    proposals: Mapping[str, Given]
    recipe: Given
    routed: Given | None = None
    instead: bool = False

    @property
    def flawed(self) -> bool:
        """Somebody's call failed, or was answered another way."""
        answers = [*self.singles.values(), *self.proposals.values(), self.recipe, self.routed]
        return self.instead or any(answer.error for answer in answers if answer)


@dataclass(frozen=True)
class Column:
    """One subject over all rows: whether it was right [rows], its tokens [rows] and seconds [rows]."""

    name: str
    right: Floats
    tokens: Floats
    seconds: Floats
    failed: int = field(default=0)


def table(outcomes: Sequence[Outcome], *, alpha: float = CLAIM_ALPHA, seed: int = 0) -> MixtureTable:
    """Score everybody on the same rows.

    Args:
        outcomes: At least one row.
        alpha: One-sided level of every `claim_low`.
        seed: Fixes the bootstrap's resamples.

    Raises:
        DataError: There are no rows, or not the same models in each.
    """
    _check(outcomes)
    groups = np.unique([outcome.group for outcome in outcomes], return_inverse=True)[1].astype(np.intp)
    rows = _Rows(groups, int(groups.max()) + 1, alpha, seed)
    singles = [_column(name, outcomes, [o.singles[name] for o in outcomes]) for name in outcomes[0].singles]
    places = [_column(name, outcomes, [o.proposals[name] for o in outcomes]) for name in outcomes[0].proposals]
    mean, best = _mean(singles), max(singles, key=lambda column: float(column.right.sum()))
    given = [outcome.routed for outcome in outcomes if outcome.routed is not None]
    by_router = [_column("routed", outcomes, given)] if given else []
    usable = [column for column in by_router if column.failed <= MOST_FAILED * len(outcomes)]
    routed, routed_by = (usable[0], "router") if usable else (best, "hindsight")
    if (commonest := _commonest(outcomes)).right.sum() > routed.right.sum():
        routed, routed_by = commonest, "commonest"
    recipe = _column("recipe", outcomes, [outcome.recipe for outcome in outcomes])
    vote, oracle = _vote(outcomes, places), _oracle(places)
    return MixtureTable(
        rows=len(outcomes),
        groups=rows.groups,
        singles=tuple(rows.line(column) for column in singles),
        mean_single=rows.line(mean, "mean_single"),
        best_single=rows.line(best),
        routed=rows.line(routed),
        routed_by=routed_by,
        vote=rows.line(vote),
        recipe=rows.line(recipe),
        oracle=rows.line(oracle),
        gain=rows.paired(routed.name, recipe.right > 0, routed.right > 0),
        gain_over_mean=rows.difference(recipe.right - mean.right),
        share_of_oracle=_share(recipe, routed, oracle),
        share_from_mean=_share(recipe, mean, oracle),
        error_correlation=error_correlation([column.right for column in places]),
        instead=sum(outcome.instead for outcome in outcomes),
        failed={column.name: column.failed for column in (*singles, *by_router, recipe) if column.failed},
    )


def _check(outcomes: Sequence[Outcome]) -> None:
    if not outcomes:
        raise DataError("There are no rows to score.", remedy="Give more data, or a test file with rows in it.")
    first = outcomes[0]
    for outcome in outcomes:
        alike = list(outcome.singles) == list(first.singles) and list(outcome.proposals) == list(first.proposals)
        if not alike or (outcome.routed is None) != (first.routed is None):
            raise DataError("Subjects can only be compared on rows that all of them answered.", where=outcome.id)
    if not first.singles or not first.proposals:
        raise DataError("A recipe is compared with its proposers; none has answered.", where=first.id)


def _column(name: str, outcomes: Sequence[Outcome], given: Sequence[Given]) -> Column:
    right = [not one.error and plain(one.text) == plain(o.truth) for o, one in zip(outcomes, given, strict=True)]
    return Column(
        name,
        np.array(right, dtype=float),
        np.array([one.tokens for one in given], dtype=float),
        np.array([one.seconds for one in given], dtype=float),
        sum(bool(one.error) for one in given),
    )


def _mean(columns: Sequence[Column]) -> Column:
    parts = [np.mean([getattr(column, name) for column in columns], axis=0) for name in ("right", "tokens", "seconds")]
    return Column("mean_single", *parts)


def _commonest(outcomes: Sequence[Outcome]) -> Column:
    """Says the same to all rows, and that the likeliest; needs no call."""
    truths = [plain(outcome.truth) for outcome in outcomes]
    answer = max(dict.fromkeys(truths), key=truths.count)
    right = np.array([truth == answer for truth in truths], dtype=float)
    return Column("the commonest answer", right, np.zeros(len(right)), np.zeros(len(right)))


def _all_asked(columns: Sequence[Column]) -> tuple[Floats, Floats]:
    """Tokens and seconds of asking all of them at once."""
    return np.sum([c.tokens for c in columns], axis=0), np.max([c.seconds for c in columns], axis=0)


def _vote(outcomes: Sequence[Outcome], places: Sequence[Column]) -> Column:
    right = [plain(majority(list(outcome.proposals.values()))) == plain(outcome.truth) for outcome in outcomes]
    return Column("vote", np.array(right, dtype=float), *_all_asked(places))


def majority(proposals: Sequence[Given]) -> str:
    """The text that most proposals give; of texts with as many, the one proposed first. "" when all have failed."""
    texts = [plain(one.text) for one in proposals if not one.error]
    counts = Counter(texts)
    return max(texts, key=lambda text: (counts[text], -texts.index(text)), default="")


def _oracle(places: Sequence[Column]) -> Column:
    right: Floats = np.max([column.right for column in places], axis=0)
    return Column("oracle", right, *_all_asked(places))


def _share(recipe: Column, start: Column, oracle: Column) -> float | None:
    way = float(oracle.right.mean() - start.right.mean())
    return round(float(recipe.right.mean() - start.right.mean()) / way, 6) if way > 1e-12 else None


def error_correlation(rights: Sequence[Floats]) -> float | None:
    """Mean correlation of two columns over all pairs; a column that never differs correlates with none."""
    varying = [right for right in rights if float(np.ptp(right)) > 0]
    found = [float(np.corrcoef(one, other)[0, 1]) for one, other in combinations(varying, 2)]
    return round(float(np.mean(found)), 6) if found else None


@dataclass(frozen=True)
class _Rows:
    """Which rows belong together, and from that every interval.

    Attributes:
        of: Group of each row [rows].
        groups: How many there are.
        alpha: One-sided level of `claim_low`.
        seed: Of the bootstrap.
    """

    of: NDArray[np.intp]
    groups: int
    alpha: float
    seed: int

    @property
    def independent(self) -> bool:
        return self.groups == len(self.of)

    def line(self, column: Column, subject: str | None = None) -> MixtureLine:
        tokens, seconds = float(column.tokens.mean()), float(column.seconds.mean())
        rate = float(column.right.mean())
        return MixtureLine(
            subject=subject or column.name,
            right=self.rate(column.right),
            tokens=round(tokens, 2),
            seconds=round(seconds, 4),
            per_1000_tokens=round(1000 * rate / tokens, 4) if tokens else 0.0,
            per_second=round(rate / seconds, 4) if seconds else 0.0,
        )

    def rate(self, values: Floats) -> Interval:
        """The interval of a mean of values from 0 to 1, exact where rows are right or wrong and independent."""
        exact = clopper_pearson(round(float(self._by_group(values).sum())), self.groups, alpha=self.alpha)
        return exact if self.independent and _whole(values) else self._mean(values, exact, 1.0)

    def difference(self, values: Floats) -> Interval:
        """The interval of a mean of differences from -1 to 1."""
        balance = self._by_group(values)
        tango = paired_rates(int((balance > 0).sum()), int((balance < 0).sum()), self.groups, alpha=self.alpha)
        if self.independent and _whole(values):
            return tango
        decided = balance[balance != 0]
        return self._mean(values, tango, float(np.sqrt((decided**2).mean())) if len(decided) else 1.0)

    def paired(self, other: str, ours: Bools, theirs: Bools) -> PairedComparison:
        """We against another subject, row by row; groups with as many wins as losses speak for nobody."""
        if self.independent:
            return paired_difference(other, ours, theirs, alpha=self.alpha, seed=self.seed)
        values = ours.astype(float) - theirs
        balance = self._by_group(values)
        return PairedComparison(
            other=other,
            difference=self.difference(values),
            p_value=mcnemar_exact(int((balance > 0).sum()), int((balance < 0).sum())),
            wins=int((values > 0).sum()),
            losses=int((values < 0).sum()),
        )

    def _by_group(self, values: Floats) -> Floats:
        return np.bincount(self.of, weights=values) / np.bincount(self.of)

    def _mean(self, values: Floats, careful: Interval, scale: float) -> Interval:
        """By the bootstrap over groups; whole values claim no more than as many groups that are right or wrong.

        `scale` is how much a group counts that decides for one side: less than 1 where only some of its rows do.
        """
        margin = scale * (careful.point - careful.claim_low) if _whole(values) else 0.0
        return bca_interval(
            self._statistic(values), self.groups, careful, least_margin=margin, alpha=self.alpha, seed=self.seed
        )

    def _statistic(self, values: Floats) -> Statistic:
        """The mean over rows as a function of the groups' weights [draws, groups]."""
        sums, sizes = np.bincount(self.of, weights=values), np.bincount(self.of).astype(float)

        def mean(weights: NDArray[np.floating[Any]]) -> Floats:
            found: Floats = (weights @ sums) / np.maximum(weights @ sizes, 1e-12)
            return found

        return mean


def _whole(values: Floats) -> bool:
    return bool(np.isin(values, (-1, 0, 1)).all())
