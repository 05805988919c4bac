"""Labels that look wrong: what a cross-validated linear model finds unlikely.

Each row is scored by a logistic regression on TF-IDF features that never saw it. A row is suspicious when another class
is about as probable for it as that class is, on average, for its own rows: the rule of confident learning
(Northcutt, Jiang and Chuang, 2021, https://doi.org/10.1613/jair.1.12125).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_union

from moatelier.contracts import Suspicion
from moatelier.ids import digest_json

FOLDS = 3
_EPOCHS = 12
_SLACK = 0.8
"""Of a class's own average: among well-separated classes that lies near one, which few wrong labels reach."""
_FEWEST_ROWS = 30
"""Below this a linear model knows too little to accuse anyone."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


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


def out_of_fold(texts: Sequence[str], labels: Sequence[str]) -> OutOfFold:
    """Score every row by a model fitted on the other folds. The result does not depend on the order of the rows."""
    classes = sorted(set(labels))
    given = np.array([classes.index(label) for label in labels], dtype=np.int64)
    keys = [digest_json([text, label]) for text, label in zip(texts, labels, strict=True)]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    features = _features([texts[i] for i in order])
    folds = _folds(given[order])
    sorted_probability = np.zeros((len(order), len(classes)))
    for fold in range(FOLDS):
        held = folds == fold
        model = SGDClassifier(loss="log_loss", alpha=3e-5, max_iter=_EPOCHS, tol=None, random_state=0)
        model.fit(features[~held], given[order][~held])
        columns = np.asarray(model.classes_, dtype=np.int64)
        sorted_probability[np.ix_(held, columns)] = model.predict_proba(features[held])
    probability = np.empty_like(sorted_probability)
    probability[order] = sorted_probability
    return OutOfFold(classes, given, probability)


def _features(texts: Sequence[str]) -> csr_matrix:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=2, sublinear_tf=True)
    return csr_matrix(make_union(words, letters).fit_transform(texts))


def _folds(given: Integers) -> Integers:
    # Round robin within each class, so that every fold has its share of every class.
    folds = np.zeros(len(given), dtype=np.int64)
    for label in np.unique(given):
        members = np.flatnonzero(given == label)
        folds[members] = (np.arange(len(members)) + label) % FOLDS
    return folds


def find_suspicious(numbers: Sequence[int], texts: Sequence[str], labels: Sequence[str]) -> tuple[Suspicion, ...]:
    """Rows whose label is probably wrong, worst first.

    Args:
        numbers: The rows' numbers, as they are reported.
        texts: Their inputs; exact duplicates should be left out, since a wrong label's copy confirms it.
        labels: Their labels.
    """
    if len(texts) < _FEWEST_ROWS or len(set(labels)) < 2:
        return ()
    scored = out_of_fold(texts, labels)
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
        for i in range(len(texts))
        if likelier[i] != scored.given[i] and scored.probability[i, likelier[i]] >= _SLACK * confident[likelier[i]]
    ]
    return tuple(sorted(found, key=lambda suspicion: (-suspicion.loss, suspicion.row)))


def _class_confidence(scored: OutOfFold) -> Floats:
    # How probable each class is, on average, for the rows that bear its label.
    own = scored.probability[np.arange(len(scored.given)), scored.given]
    return np.array([own[scored.given == label].mean() for label in range(len(scored.classes))])
