"""An image adapter's objective: cross-entropy over classes, above stages whose output is computed once per image.

The head starts as the linear probe on the whole tower's features: tuning goes on from what a frozen tower gives. Half
of a step's images are mirrored, drawn from torch's generator, whose state checkpoints hold.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import cross_entropy

from moatelier.contracts import DatasetCard, TrainSpec
from moatelier.errors import DataError
from moatelier.ids import canonical_json, digest_json
from moatelier.job import Job
from modalities import catalogue
from modalities.bundle import CONFIG, WEIGHTS
from modalities.vision import data
from modalities.vision.classifier import Classifier
from modalities.vision.config import TRANSFORM
from modalities.vision.features import Features
from modalities.vision.model import VisionBase, load_base
from modalities.vision.rows import ImageRow
from training import methods
from training.contrastive import PairsObjective
from training.filling import fill_progress
from training.methods import linear_probe


def prepare(
    spec: TrainSpec, card: DatasetCard, rows: Mapping[str, Sequence[dict[str, Any]]], job: Job
) -> "VisionObjective | PairsObjective":
    """Everything up to the first step: frozen stages run, the probe fitted, the adapter attached.

    Contrastive tuning takes the embedding model of the settings for words, where the base has no tower for them.

    Raises:
        DataError: A row has a label that no training row has, or its image is damaged.
        InvalidRequest: The method or the size does not fit the base.
        Cancelled: The job was asked to stop.
        ResourceExhausted: The time limit was used up by the frozen stages.
    """
    train, dev = (data.rows_of(rows[split]) for split in ("train", "dev"))
    if spec.method == "contrastive":
        words = catalogue.embedding()
        base = load_base(spec.base, spec.precision, text=words)
        return PairsObjective(spec, base, words if base.text_digest else None, [*train, *dev], len(train), job)
    base = load_base(spec.base, spec.precision)
    return VisionObjective(spec, base, card.labels, [*train, *dev], len(train), job)


class VisionObjective:
    """See `training.objective.Prepared`.

    Args:
        spec: What to do.
        base: Loaded; its tower gets the adapter.
        labels: The classes, in the order of the head's rows.
        rows: Training rows, then dev rows.
        train_rows: How many of them are for training.
        job: Told of progress; asked whether to stop.
    """

    micro = 32

    def __init__(
        self,
        spec: TrainSpec,
        base: VisionBase,
        labels: Sequence[str],
        rows: Sequence[ImageRow],
        train_rows: int,
        job: Job,
    ) -> None:
        began = time.monotonic()
        self._spec, self._base, self._rows = spec, base, rows
        self._method = methods.load(spec, "vision")
        self.transform = base.transform_at(spec.size or base.config.transform.size)
        self._first = base.first_stage_default if spec.layers == "top_third" else 0
        self._targets = _targets(rows, labels)
        progress = fill_progress(spec, job, began)
        model = Classifier(base.tower, len(labels)).to(base.device)
        self._start_head(model, train_rows, progress)
        self.solved = spec.method == "linear_probe"
        stages = len(base.tower.stages)
        self._stop = stages if self.solved else self._first
        self._features = self._open(rows, self._stop, progress, mirror=not self.solved)
        self.model = self._method.attach(model, spec, self._first)
        torch.manual_seed(spec.seed)  # of what the loss draws
        self.sizes = self.units = [1] * len(rows)
        self.data = digest_json([[row.pixels, row.label] for row in rows])
        self.precision = base.precision
        self.seconds = time.monotonic() - began

    def _open(
        self, rows: Sequence[ImageRow], stop: int, progress: Callable[[int, int], None], *, mirror: bool = False
    ) -> Features:
        def image(row: int) -> Image.Image:
            return data.open_image(rows[row])

        pixels = [row.pixels for row in rows]
        return Features(self._base, pixels, image, self.transform, stop, mirror=mirror, progress=progress)

    def _start_head(self, model: Classifier, train_rows: int, progress: Callable[[int, int], None]) -> None:
        whole = self._open(self._rows, len(self._base.tower.stages), progress)
        try:
            features = whole.read(range(train_rows)).float()
            linear_probe.start_head(model, features, self._targets[:train_rows], self._spec.seed)
        finally:
            whole.close()

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Cross-entropy summed over the rows."""
        turned = None
        if self.model.training and not self.solved:
            turned = (torch.rand(len(rows)) < 0.5).tolist()
        states = self._features.read(rows, turned)
        logits = self.model(states, self._stop)
        return cross_entropy(logits, self._targets[list(rows)].to(logits.device), reduction="sum")

    def weights(self) -> dict[str, Tensor]:
        """The adapter's tensors."""
        weights: dict[str, Tensor] = self._method.weights(self.model)
        return weights

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put them back."""
        self._method.restore(self.model, weights)

    def files(self) -> dict[str, bytes]:
        """The bundle's files; the configuration says how images come in."""
        config = json.loads(self._method.config(self.model, self._spec.base))
        weights = save(self.weights(), metadata={"format": "pt"})
        told = config | {TRANSFORM: self.transform.model_dump(mode="json")}
        return {CONFIG: canonical_json(told), WEIGHTS: bytes(weights)}

    def manifest(self) -> dict[str, Any]:
        """What the base and the rows fix."""
        return {
            "base_digest": self._base.digest,
            "system": "",
            "template_digest": self.transform.digest,
            "stop_ids": (),
            "first_layer": self._stop,
        }

    def close(self) -> None:
        """Let go of the frozen stages' cache."""
        self._features.close()


def _targets(rows: Sequence[ImageRow], labels: Sequence[str]) -> Tensor:
    place = {label: number for number, label in enumerate(labels)}
    for row in rows:
        if row.label not in place:
            raise DataError(
                f"The label {row.label!r} is none of the dataset's.",
                where=row.place or f"row {row.number}",
                remedy="Curate the data again.",
            )
    return torch.tensor([place[str(row.label)] for row in rows])
