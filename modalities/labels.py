"""Labels that look wrong: what a cross-validated linear model finds unlikely.

Each row is scored by a linear model on the modality's features that never saw it. A row is suspicious when another
class is about as probable for it as that class is, on average, for its own rows: the rule of confident learning
(Northcutt, Jiang and Chuang, 2021, https://doi.org/10.1613/jair.1.12125). Imports no torch.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moatelier.contracts import CurationDecision, Suspicion
from moatelier.ids import digest_json
from modalities.splits import R

FOLDS = 3
_SLACK = 0.8
"""Of a class's own average: among well-separated classes that lies near one, which few wrong labels reach."""
_FEWEST_ROWS = 30
"""Below this a linear model knows too little to accuse anyone."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Features = Callable[[Sequence[int]], Any]
"""Gives the features of some rows, by their positions and in that order: `[rows, width]`, dense or sparse."""
Make = Callable[[], Any]
"""Gives an untrained classifier of scikit-learn that tells probabilities."""


@dataclass(frozen=True)
class OutOfFold:
    """What the model thinks of each row, in the order given.

    Attributes:
        classes: The labels, sorted.
        given: `[rows]`, the index of each row's own label.
        probability: `[rows, classes]`, out of fold.
    """

    classes: list[str]
    given: Integers
    probability: Floats

    @property
    def loss(self) -> Floats:
        """`[rows]`, minus the log of the given label's probability, in nats."""
        own = self.probability[np.arange(len(self.given)), self.given]
        return np.asarray(-np.log(np.clip(own, 1e-6, 1.0)), dtype=np.float64)


def judged(rows: Sequence[R], locked: Container[int], decision: CurationDecision) -> list[R]:
    """The rows whose labels may be looked at: those that can be used, have one, and are neither dropped nor locked.

    Args:
        rows: All of them.
        locked: Numbers of those that will be locked.
        decision: The curator's first, on findings without suspicions.
    """
    usable = (row for row in rows if row.problem is None and row.label is not None)
    return [row for row in usable if row.number not in decision.drop and row.number not in locked]


def out_of_fold(contents: Sequence[str], labels: Sequence[str], features: Features, make: Make) -> OutOfFold:
    """Score every row by a model fitted on the other folds. The result does not depend on the order of the rows.

    Args:
        contents: What each row holds, or a digest of it.
        labels: Their labels.
        features: Of all rows, in the order of their contents.
        make: Gives the model.
    """
    classes = sorted(set(labels))
    given = np.array([classes.index(label) for label in labels], dtype=np.int64)
    keys = [digest_json([content, label]) for content, label in zip(contents, labels, strict=True)]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    ordered = features(order.tolist())
    folds = _folds(given[order])
    sorted_probability = np.zeros((len(order), len(classes)))
    for fold in range(FOLDS):
        held = folds == fold
        model = make()
        model.fit(ordered[~held], given[order][~held])
        columns = np.asarray(model.classes_, dtype=np.int64)
        sorted_probability[np.ix_(held, columns)] = model.predict_proba(ordered[held])
    probability = np.empty_like(sorted_probability)
    probability[order] = sorted_probability
    return OutOfFold(classes, given, probability)


def _folds(given: Integers) -> Integers:
    # Round robin within each class, so that every fold has its share of every class.
    folds = np.zeros(len(given), dtype=np.int64)
    for label in np.unique(given):
        members = np.flatnonzero(given == label)
        folds[members] = (np.arange(len(members)) + label) % FOLDS
    return folds


def find_suspicious(
    numbers: Sequence[int], contents: Sequence[str], labels: Sequence[str], features: Features, make: Make
) -> tuple[Suspicion, ...]:
    """Rows whose label is probably wrong, worst first.

    Args:
        numbers: The rows' numbers, as they are reported.
        contents: What they hold; exact duplicates should be left out, since a wrong label's copy confirms it.
        labels: Their labels.
        features: Not called for data on which no model could accuse anyone.
        make: Gives the model.
    """
    if len(contents) < _FEWEST_ROWS or len(set(labels)) < 2:
        return ()
    scored = out_of_fold(contents, labels, features, make)
    confident = _class_confidence(scored)
    losses = scored.loss
    likelier = scored.probability.argmax(axis=1)
    found = [
        Suspicion(
            row=numbers[i],
            label=labels[i],
            likelier=scored.classes[likelier[i]],
            probability=round(float(scored.probability[i, likelier[i]]), 6),
            loss=round(float(losses[i]), 6),
        )
        for i in range(len(contents))
        if likelier[i] != scored.given[i] and scored.probability[i, likelier[i]] >= _SLACK * confident[likelier[i]]
    ]
    return tuple(sorted(found, key=lambda suspicion: (-suspicion.loss, suspicion.row)))


def _class_confidence(scored: OutOfFold) -> Floats:
    # How probable each class is, on average, for the rows that bear its label.
    own = scored.probability[np.arange(len(scored.given)), scored.given]
    return np.array([own[scored.given == label].mean() for label in range(len(scored.classes))])
