"""Images whose labels look wrong: a logistic regression on a frozen tower's features. See `modalities.labels`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from moatelier.contracts import Suspicion
from moatelier.job import Job
from modalities.labels import find_suspicious
from modalities.vision import data
from modalities.vision.features import Features
from modalities.vision.model import load_base
from modalities.vision.rows import ImageRow

_STRENGTH = 3e-3
"""Inverse penalty. Of 1,200 CIFAR images with 59 labels exchanged, 30 are among the 35 whose other label is 20 times as
likely as their own and likelier than not; at 1e-3 14 of 15, at 1e-2 37 of 58."""


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Answer `modalities.vision.curating.doubts`.

    Returns:
        `suspicious`: each a `Suspicion`, worst first.

    Raises:
        ModelUnavailable: The base is not pulled, or is no model for images.
        NotFound: An image is gone.
        Cancelled: The job was asked to stop.
    """

    def watch(done: int, batches: int) -> None:
        job.emit("progress", done, phase="look", done=done, batches=batches)
        job.check()  # after it is told: whoever goes on does not make this batch again

    rows = [ImageRow(number, image, pixels, label) for number, image, pixels, label in spec["rows"]]
    found = suspects(rows, spec["base"], spec["size"], watch)
    return {"suspicious": [suspicion.model_dump(mode="json") for suspicion in found]}


def suspects(
    rows: Sequence[ImageRow], base: str, size: int | None = None, watch: Callable[[int, int], None] = lambda *_: None
) -> tuple[Suspicion, ...]:
    """Rows whose label is probably wrong, worst first.

    Args:
        rows: With labels; exact duplicates should be left out, and rows that will be locked must be.
        base: Catalogue id of the model whose image tower gives the features.
        size: Pixels of either side that images are brought to; None is what the base was trained with.
        watch: Called with (batches done, batches in all) while images go through it; may raise to stop.
    """

    def features(order: Sequence[int]) -> npt.NDArray[np.float64]:
        return _features([rows[position] for position in order], base, size, watch)

    numbers, labels = [row.number for row in rows], [str(row.label) for row in rows]
    return find_suspicious(numbers, [row.pixels for row in rows], labels, features, _model)


def _model() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=_STRENGTH, max_iter=300))


def _features(
    rows: Sequence[ImageRow], base: str, size: int | None, watch: Callable[[int, int], None]
) -> npt.NDArray[np.float64]:
    loaded = load_base(base)

    def image(row: int) -> Image.Image:
        return data.open_image(rows[row])

    transform = loaded.transform_at(size or loaded.config.transform.size)
    pixels, stages = [row.pixels for row in rows], len(loaded.tower.stages)
    features = Features(loaded, pixels, image, transform, stages, progress=watch)
    try:
        found: npt.NDArray[np.float64] = features.read(range(len(rows))).double().cpu().numpy()
    finally:
        features.close()
    return found
