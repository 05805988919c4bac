"""Images whose labels look wrong: a logistic regression on a frozen tower's features. See `modalities.labels`."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from moatelier.contracts import CurationDecision, ImageFindings, Suspicion
from modalities.labels import find_suspicious, judged
from modalities.vision import data
from modalities.vision.features import Features
from modalities.vision.model import load_base
from modalities.vision.rows import ImageRow

_STRENGTH = 3e-3
"""Inverse penalty. Of 1,200 CIFAR images with 59 labels exchanged, 30 are among the 35 whose other label is 20 times as
likely as their own and likelier than not; at 1e-3 14 of 15, at 1e-2 37 of 58."""


def doubt(
    rows: Sequence[ImageRow],
    findings: ImageFindings,
    decision: CurationDecision,
    seed: int,
    test_rows: Sequence[ImageRow] | None,
    *,
    base: str,
    watch: Callable[[int, int], None] = lambda *_: None,
) -> ImageFindings:
    """The findings with labels that look wrong, judged without and about none of the rows that will be locked.

    Args:
        rows: From `read_rows`.
        findings: From `find`.
        decision: The curator's on these findings.
        seed: Of the split.
        test_rows: The locked rows of a separate test set; then all of `rows` are judged.
        base: Catalogue id of a pulled model whose image tower gives the features.
        watch: Called with (batches done, batches in all) while images go through it; may raise to stop.

    Raises:
        ModelUnavailable: The base has not been pulled, or is no model for images.
        NotFound: An image is gone.
    """
    locked = {row.number for row in data.split(rows, findings, decision, seed, test_rows)["test"]}
    chosen = judged(rows, locked if test_rows is None else (), decision)
    return findings.model_copy(update={"suspicious": suspicious(chosen, base, watch=watch)})


def suspicious(
    rows: Sequence[ImageRow], base: str, size: int | None = None, watch: Callable[[int, int], None] = lambda *_: None
) -> tuple[Suspicion, ...]:
    """The rows whose labels look wrong among these, worst first.

    Args:
        rows: With labels; none that will be locked.
        base: Catalogue id of a pulled model whose image tower gives the features.
        size: Pixels of either side that they are looked at with; None is the base's own.
        watch: Called with (batches done, batches in all) while images go through it; may raise to stop.

    Raises:
        ModelUnavailable: The base has not been pulled, or is no model for images.
        InvalidRequest: It takes no such size.
        NotFound: An image is gone.
    """
    return find_suspicious(
        [row.number for row in rows],
        [row.pixels for row in rows],
        [str(row.label) for row in rows],
        lambda order: _features([rows[position] for position in order], base, size, watch),
        _model,
    )


def _model() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=_STRENGTH, max_iter=300))


def _features(
    rows: Sequence[ImageRow], base: str, size: int | None, watch: Callable[[int, int], None]
) -> npt.NDArray[np.float64]:
    loaded = load_base(base)
    transform = loaded.transform_at(size or loaded.config.transform.size)

    def image(row: int) -> Image.Image:
        return data.open_image(rows[row])

    pixels = [row.pixels for row in rows]
    features = Features(loaded, pixels, image, transform, len(loaded.tower.stages), progress=watch)
    try:
        found: npt.NDArray[np.float64] = features.read(range(len(rows))).double().cpu().numpy()
    finally:
        features.close()
    return found
