"""An image-language adapter's objective: cross-entropy on the answers to questions about pictures.

What the frozen layers make of the words is computed once for each distinct question and answer, what the frozen vision
tower makes of a picture once for each picture. A step runs the projector, and the tuned layers with the picture's
vectors at the picture's places. Half of a step's pictures are mirrored, drawn from torch's generator.

The projector starts where a regression puts it: a picture's vectors near what the frozen layers make of the words that
name it. On CIFAR-10, 226 steps of 16 rows then gave 76.0 % right answers to 400 held-out questions, 70.5 % without it.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from moatelier.contracts import DatasetCard, SplitName, TrainSpec
from moatelier.errors import InvalidRequest
from moatelier.ids import canonical_json, digest_json
from moatelier.job import Job
from modalities.bundle import CONFIG, WEIGHTS
from modalities.imagetext import data
from modalities.imagetext.config import NAME, PROJECTOR, SIGHT, Sight
from modalities.imagetext.projector import Projector, look, vectors_of
from modalities.imagetext.prompt import spread
from modalities.imagetext.questions import SYSTEM, QuestionRow
from modalities.text import model as text_model
from modalities.text.model import TextBase
from modalities.vision import model as vision_model
from modalities.vision.features import Features
from modalities.vision.model import VisionBase
from training import methods, text
from training.activations import decide
from training.batches import MICRO_TOKENS, Example
from training.filling import fill_progress
from training.inputs import Inputs, Source
from training.loss import frozen_head_loss

_MEASURED = 64
"""Rows whose states tell how large a picture's vectors begin."""


def prepare(
    spec: TrainSpec, card: DatasetCard, rows: Mapping[str, Sequence[dict[str, Any]]], job: Job
) -> "ImageTextObjective":
    """Everything up to the first step: both bases loaded, rows checked, frozen layers and tower run, fresh adapters.

    Raises:
        InvalidRequest: The spec names no vision base, or its size or layers do not fit.
        DataError: The rows cannot be trained on, or a picture is damaged.
        Cancelled: The job was asked to stop.
        ResourceExhausted: The time limit was used up by what is frozen.
    """
    if spec.vision is None:
        raise InvalidRequest("The spec names no vision base.", where="vision", remedy="Name one of the catalogue.")
    methods.load(spec, NAME)
    language = text_model.load_base(spec.base, spec.precision)
    eyes = vision_model.load_base(spec.vision, spec.precision)
    parts = [data.rows_of(rows[split]) for split in ("train", "dev")]
    return ImageTextObjective(spec, language, eyes, parts[0], parts[1], job)


class ImageTextObjective:
    """See `training.objective.Prepared`.

    Args:
        spec: What to do.
        base: The language model; it gets the adapters.
        eyes: The vision base; it stays as it is.
        train: Training rows.
        dev: Dev rows.
        job: Told of progress; asked whether to stop.
    """

    micro, solved = 2 * MICRO_TOKENS, False  # more than half of such a short row is the beginning that all share

    def __init__(
        self,
        spec: TrainSpec,
        base: TextBase,
        eyes: VisionBase,
        train: Sequence[QuestionRow],
        dev: Sequence[QuestionRow],
        job: Job,
    ) -> None:
        began = time.monotonic()
        self._spec, self._base, self._eyes, self._rows = spec, base, eyes, [*train, *dev]
        self._method = methods.load(spec, NAME)
        self._first_layer = base.first_layer_default
        transform = eyes.transform_at(spec.size or eyes.config.transform.size)
        vectors, seen = vectors_of(eyes, transform.size)
        self.sight = Sight(
            base=eyes.entry_id,
            base_digest=eyes.digest,
            transform=transform,
            vectors=vectors,
            hidden=base.config.hidden,
        )
        examples, pixels = self._encode(train, dev, job), [row.pixels for row in self._rows]
        with ExitStack() as opened:  # whatever goes wrong from here on, no cache stays held
            progress = fill_progress(spec, job, began)
            shared = min(self._places, default=0)
            self._source = Source(base, examples, self._first_layer, base.precision, progress, shared=shared)
            opened.callback(self._source.close)
            stop = eyes.tower.before_places
            self._features = Features(eyes, pixels, self._image, transform, stop, mirror=True, progress=progress)
            opened.callback(self._features.close)
            torch.manual_seed(spec.seed)
            projector = Projector(vectors, seen, self.sight.hidden, base.config.hidden).to(base.device)
            self._start(projector, train, examples)
            self.model = self._method.attach(base.model, spec, self._first_layer, projector=projector)
            opened.pop_all()
        self._head = base.model.get_output_embeddings()
        torch.manual_seed(spec.seed)  # of what the loss draws
        self.sizes: Sequence[int] = [len(example.ids) for example in examples]
        self.units: Sequence[int] = [sum(example.trained) for example in examples]
        rows = zip(examples, self._places, pixels, strict=True)
        self.data = digest_json([[each.ids, each.trained, place, seen] for each, place, seen in rows])
        self.precision = base.precision
        try:
            self.recompute = decide(self, partial(ImageTextObjective.loss, self), job)
        except BaseException:
            self.close()
            raise
        self.seconds = time.monotonic() - began

    @property
    def recompute(self) -> bool:
        """Whether activations are computed twice instead of kept."""
        return self._source.recompute

    @recompute.setter
    def recompute(self, twice: bool) -> None:
        self._source.recompute = twice

    def _encode(self, train: Sequence[QuestionRow], dev: Sequence[QuestionRow], job: Job) -> list[Example]:
        self._places: list[int] = []
        first, second = self._split("train", train), self._split("dev", dev)
        text.preflight_rows(self._base, self._spec, first, second, job)
        return [*first, *second]

    def _split(self, name: SplitName, rows: Sequence[QuestionRow]) -> list[Example]:
        told = [{"row": row.number, "messages": row.messages} for row in rows]
        return [self._spread(example) for example in text.encode(self._base, name, told)]

    def _spread(self, example: Example) -> Example:
        vectors, filler = self.sight.vectors, self._base.tokenizer.pad_token_id
        ids, place = spread(example.ids, vectors, filler)
        self._places.append(place)
        more = (False,) * (vectors - 1)
        return replace(example, ids=tuple(ids), trained=(*example.trained[:place], *more, *example.trained[place:]))

    def _image(self, row: int) -> Image.Image:
        return data.open_image(self._rows[row])

    def _start(self, projector: Projector, train: Sequence[QuestionRow], examples: Sequence[Example]) -> None:
        pictures = sorted({row.pixels: place for place, row in reversed(list(enumerate(train)))}.values())
        at = range(0, len(pictures), _MEASURED)
        seen = torch.cat([self._seen(pictures[start : start + _MEASURED]) for start in at])
        states = self._source.inputs(range(min(_MEASURED, len(train)))).hidden[0, self._source.prefix :].float()
        named = {row.pixels: row.answer for row in train if row.form == "what"}
        targets = None
        if all(train[place].pixels in named for place in pictures):
            told = self._answers(train, examples)
            targets = torch.stack([told[named[train[place].pixels]] for place in pictures])
        projector.start(seen, float(states.pow(2).mean(dim=1).sqrt().median()), targets)

    def _answers(self, train: Sequence[QuestionRow], examples: Sequence[Example]) -> dict[str, Tensor]:
        """The mean state `[width]` that the frozen layers give the words of each answer to "What is shown?"."""
        rows = {row.answer: place for place, row in enumerate(train) if row.form == "what"}
        found = {}
        for answer, place in sorted(rows.items()):
            inputs = self._source.inputs([place])
            [start] = inputs.layout.starts
            # Without the stop token, which says nothing of the picture.
            at = [start + position - self._source.prefix for position in examples[place].targets[:-1]]
            found[answer] = inputs.hidden[0, at].float().mean(dim=0)
        return found

    @torch.no_grad()
    def _seen(self, rows: Sequence[int], mirror: Sequence[bool] | None = None) -> Tensor:
        return look(self._eyes, self._features.read(rows, mirror))

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Cross-entropy summed over the rows' trained tokens."""
        turned = (torch.rand(len(rows)) < 0.5).tolist() if self.model.training else None
        states = self.model.projector(self._seen(rows, turned))
        inputs = self._shown(self._source.inputs(rows), rows, states)
        return frozen_head_loss(self._source.tuned(inputs), inputs.targets, self._head)

    def _shown(self, inputs: Inputs, rows: Sequence[int], states: Tensor) -> Inputs:
        """The micro-batch with the pictures' vectors `[rows, vectors, width]` at their places."""
        starts = [
            start + self._places[row] - self._source.prefix
            for start, row in zip(inputs.layout.starts, rows, strict=True)
        ]
        places = torch.tensor(starts, device=states.device)[:, None]
        places = (places + torch.arange(self.sight.vectors, device=states.device)).flatten()
        hidden = inputs.hidden[0].index_copy(0, places, states.flatten(0, 1).to(inputs.hidden.dtype))
        return replace(inputs, hidden=hidden[None])

    def weights(self) -> dict[str, Tensor]:
        """The adapter's tensors."""
        weights: dict[str, Tensor] = self._method.weights(self.model)
        return weights

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put them back."""
        self._method.restore(self.model, weights)

    def files(self) -> dict[str, bytes]:
        """The bundle's files: PEFT's two as of any text adapter, and the projector's two."""
        low, own = self._method.parted(self.weights())
        return {
            CONFIG: self._method.config(self.model, self._spec.base),
            WEIGHTS: bytes(save(low, metadata={"format": "pt"})),
            PROJECTOR: bytes(save(own, metadata={"format": "pt"})),
            SIGHT: canonical_json(self.sight.model_dump(mode="json")),
        }

    def manifest(self) -> dict[str, Any]:
        """What the language model and the rows fix."""
        return {
            "base_digest": self._base.digest,
            "system": SYSTEM,
            "template_digest": self._base.template_digest,
            "stop_ids": self._base.stop_ids,
            "first_layer": self._first_layer,
        }

    def close(self) -> None:
        """Let go of both caches."""
        self._source.close()
        self._features.close()
