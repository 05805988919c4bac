"""Texts whose labels look wrong: TF-IDF of words and letters, and a logistic regression. See `modalities.labels`."""

from collections.abc import Sequence
from functools import partial

from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_union

from moatelier.contracts import Suspicion
from modalities import labels as judging

_EPOCHS = 12


def out_of_fold(texts: Sequence[str], labels: Sequence[str]) -> judging.OutOfFold:
    """Score every row by a model fitted on the other folds."""
    return judging.out_of_fold(texts, labels, partial(_features, texts), _model)


def find_suspicious(numbers: Sequence[int], texts: Sequence[str], labels: Sequence[str]) -> tuple[Suspicion, ...]:
    """Rows whose label is probably wrong, worst first. Exact duplicates should be left out."""
    return judging.find_suspicious(numbers, texts, labels, partial(_features, texts), _model)


def _model() -> SGDClassifier:
    return SGDClassifier(loss="log_loss", alpha=3e-5, max_iter=_EPOCHS, tol=None, random_state=0)


def _features(texts: Sequence[str], order: Sequence[int]) -> csr_matrix:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=2, sublinear_tf=True)
    return csr_matrix(make_union(words, letters).fit_transform([texts[i] for i in order]))
