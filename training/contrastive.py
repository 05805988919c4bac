"""The objective of contrastive tuning: each image next to its captions, above a locked tower that runs once per image.

The projection of towers that have never met starts as a ridge regression from features to the captions' vectors, as
the head of a classifier starts as a probe.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from moatelier.contracts import TrainSpec
from moatelier.errors import DataError
from moatelier.ids import canonical_json, digest_json
from moatelier.job import Job
from modalities.bundle import CONFIG, WEIGHTS
from modalities.vision import data
from modalities.vision.config import TRANSFORM, WORDS, WordsTold
from modalities.vision.features import Features
from modalities.vision.model import VisionBase
from modalities.vision.pairs import Pairs, pair_loss
from modalities.vision.rows import ImageRow
from modalities.vision.word_tower import CAPTION, embed_words, first_block_default
from training import methods
from training.filling import fill_progress

_PENALTIES = (10.0, 100.0, 1e3, 1e4, 1e5)
_START_ROWS = 8192
"""Of them the start is fitted; the steps see all."""


class PairsObjective:
    """See `training.objective.Prepared`. A step's pairs are compared with each other, so they are never cut up.

    Args:
        spec: What to do.
        base: Loaded with a tower of words, which gets the adapter.
        words: Catalogue id of that tower, where it is a model of its own.
        rows: Training rows, then dev rows.
        train_rows: How many of them are for training.
        job: Told of progress; asked whether to stop.

    Raises:
        DataError: A row has neither caption nor label.
    """

    solved, indivisible = False, True

    def __init__(
        self,
        spec: TrainSpec,
        base: VisionBase,
        words: str | None,
        rows: Sequence[ImageRow],
        train_rows: int,
        job: Job,
    ) -> None:
        began = time.monotonic()
        self._spec, self._base, self._words, self._rows = spec, base, words, rows
        self._method = methods.load(spec, "vision")
        self.micro = spec.batch_rows
        self.transform = base.transform_at(spec.size or base.config.transform.size)
        self._captions = [_caption(row) for row in rows]
        model = Pairs(base)
        self._first = first_block_default(model.text) if spec.layers == "top_third" else 0
        pixels = [row.pixels for row in rows]
        progress = fill_progress(spec, job, began)
        self._features = Features(base, pixels, self._image, self.transform, len(base.tower.stages), progress=progress)
        if not base.config.zero_shot:
            self._start_projection(model, train_rows)
        self.model = self._method.attach(model, spec, self._first)
        self.sizes = self.units = [1] * len(rows)
        self.data = digest_json([base.text_digest, [[row.pixels, text] for row, text in self._pairs()]])
        self.precision = base.precision
        self.seconds = time.monotonic() - began

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Symmetric InfoNCE summed over the pairs."""
        texts, images = [self._captions[row] for row in rows], [self._rows[row].pixels for row in rows]
        tokens = self._base.tokenizer(texts).to(self._base.device)
        logits: Tensor = self.model(self._features.read(rows), tokens)
        pairs = list(zip(images, texts, strict=True))
        partners = [[image == other or text == words for other, words in pairs] for image, text in pairs]
        return pair_loss(logits, torch.tensor(partners, device=logits.device))

    def weights(self) -> dict[str, Tensor]:
        """The adapter's tensors."""
        weights: dict[str, Tensor] = self._method.weights(self.model)
        return weights

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put them back."""
        self._method.restore(self.model, weights)

    def files(self) -> dict[str, bytes]:
        """The bundle's files; the configuration says how images come in, and what the tower of words is."""
        config = json.loads(self._method.config(self.model, self._spec.base))
        words = WordsTold(base=self._words, base_digest=self._base.text_digest, first=self._first)
        told = config | {TRANSFORM: self.transform.model_dump(mode="json"), WORDS: words.model_dump(mode="json")}
        return {CONFIG: canonical_json(told), WEIGHTS: bytes(save(self.weights(), metadata={"format": "pt"}))}

    def manifest(self) -> dict[str, Any]:
        """What the base and the rows fix. No stage of the image tower is changed."""
        return {
            "base_digest": self._base.digest,
            "system": "",
            "template_digest": self.transform.digest,
            "stop_ids": (),
            "first_layer": len(self._base.tower.stages),
        }

    def close(self) -> None:
        """Let go of the frozen tower's cache."""
        self._features.close()

    def _image(self, row: int) -> Image.Image:
        return data.open_image(self._rows[row])

    def _pairs(self) -> list[tuple[ImageRow, str]]:
        return list(zip(self._rows, self._captions, strict=True))

    def _start_projection(self, model: Pairs, train_rows: int) -> None:
        step = max(1, -(-train_rows // _START_ROWS))
        rows = range(0, train_rows, step)
        captions = [self._captions[row] for row in rows]
        vectors = embed_words(model.text, self._base.tokenizer, captions, self._base.device)
        weight, bias = fit_projection(self._features.read(rows), vectors)
        with torch.no_grad():
            model.project.weight.copy_(weight)
            model.project.bias.copy_(bias)


def fit_projection(features: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Weight `[space, width]` and bias `[space]` of a ridge regression, its penalty chosen by leaving rows out.

    Args:
        features: `[rows, width]`.
        vectors: `[rows, space]`.
    """
    x, y = features.detach().cpu().double().numpy(), vectors.detach().cpu().double().numpy()
    scaler = StandardScaler().fit(x)
    model = RidgeCV(_PENALTIES).fit(scaler.transform(x), y)
    weight = model.coef_ / scaler.scale_
    bias = model.intercept_ - weight @ scaler.mean_
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def _caption(row: ImageRow) -> str:
    if row.caption:
        return row.caption
    if row.label:
        return CAPTION.format(row.label.replace("_", " "))
    raise DataError(
        "The image has neither a caption nor a label.",
        where=row.place or f"row {row.number}",
        remedy="Give it a caption, or leave it out.",
    )
