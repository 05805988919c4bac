"""A text adapter's objective: cross-entropy on the trained tokens of packed rows, through the tuned layers only."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import ModuleType
from typing import Any

from safetensors.torch import save
from torch import Tensor

from moatelier.contracts import DatasetCard, SplitName, TrainSpec
from moatelier.errors import DataError
from moatelier.ids import digest_json
from moatelier.job import Job
from modalities.bundle import CONFIG, WEIGHTS
from modalities.machine import DTYPES
from modalities.text.model import TextBase, load_base
from modalities.text.packed import check_packed
from modalities.text.template import Encoded, answer_header, encode_row
from training import methods, preflight
from training.activations import decide
from training.batches import MICRO_TOKENS, Example
from training.filling import fill_progress
from training.inputs import Source
from training.loss import frozen_head_loss, trained_head_loss, wrong_tokens


def prepare(
    spec: TrainSpec, card: DatasetCard, rows: Mapping[str, Sequence[dict[str, Any]]], job: Job
) -> "TextObjective":
    """Everything up to the first step: rows as tokens, checked; frozen layers run; fresh adapters attached.

    Raises:
        DataError: The rows cannot be trained on.
        Cancelled: The job was asked to stop.
        ResourceExhausted: The time limit was used up by the frozen layers.
    """
    method = methods.load(spec, "text")
    base = load_base(spec.base, spec.precision)
    header = opening(base, method)
    train, dev = (encode(base, split, rows[split], header) for split in ("train", "dev"))
    preflight_rows(base, spec, train, dev, job)
    return TextObjective(spec, base, [*train, *dev], header, _system([row["messages"] for row in rows["train"]]), job)


class TextObjective:
    """See `training.objective.Prepared`.

    Args:
        spec: What to do.
        base: Loaded; it gets the adapter.
        examples: Training rows, then dev rows.
        header: The tokens that activate an activated adapter; empty for others.
        system: The system message that prompts of this adapter start with.
        job: Told of progress; asked whether to stop.
    """

    micro, solved = MICRO_TOKENS, False

    def __init__(
        self, spec: TrainSpec, base: TextBase, examples: Sequence[Example], header: Sequence[int], system: str, job: Job
    ) -> None:
        began = time.monotonic()
        self._spec, self._base, self._system = spec, base, system
        self._method = methods.load(spec, "text")
        self._first_layer = base.first_layer_default if spec.layers == "top_third" else 0
        self._source = Source(base, examples, self._first_layer, base.precision, fill_progress(spec, job, began))
        self.frozen_seconds = time.monotonic() - began
        """What the frozen layers took, once for all rows."""
        self.cached = self._source.cached
        self.model = self._method.attach(base.model, spec, self._first_layer)
        self._head = base.model.get_output_embeddings()
        trained = self._head.weight.requires_grad or base.model.get_input_embeddings().weight.requires_grad
        self._head_loss = trained_head_loss if trained else frozen_head_loss
        if hasattr(self._method, "activate_by"):
            self._method.activate_by(self.model, header)
        self.sizes: Sequence[int] = [len(example.ids) for example in examples]
        self.units: Sequence[int] = [sum(example.trained) for example in examples]
        self.data = digest_json([[example.ids, example.trained] for example in examples])
        self.precision = base.precision
        try:
            self.recompute = decide(self, partial(TextObjective.loss, self), job)
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

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Cross-entropy summed over the rows' trained tokens."""
        with self._computing():
            inputs = self._source.inputs(rows)
            loss = self._head_loss(self._source.tuned(inputs), inputs.targets, self._head)
        if self.model.training and hasattr(self._method, "penalty"):
            penalty = self._method.penalty(self.model) * sum(self.units[row] for row in rows)
            loss = loss + penalty - penalty.detach()  # it has its gradient, and the curve stays that of the tokens
        return loss

    def after_step(self, step: int, steps: int) -> None:
        """What the method does after the optimiser's step, while the gradients are still there."""
        if hasattr(self._method, "after_step"):
            self._method.after_step(self.model, step, steps)

    def state(self) -> dict[str, Any]:
        """What the method remembers from step to step besides the weights."""
        known: dict[str, Any] = self._method.state(self.model) if hasattr(self._method, "state") else {}
        return known

    def restore_state(self, state: dict[str, Any]) -> None:
        """Put it back."""
        if state:
            self._method.restore_state(self.model, state)

    def token_errors(self, rows: Sequence[int]) -> Tensor:
        """How many of the rows' trained tokens are not what the model finds likeliest."""
        with self._computing():
            inputs = self._source.inputs(rows)
            return wrong_tokens(self._source.tuned(inputs), inputs.targets, self._head)

    def _computing(self) -> AbstractContextManager[Any]:
        """What products are computed in, where what is trained is kept in another type than the base."""
        if not hasattr(self._method, "computing"):
            return nullcontext()
        held: AbstractContextManager[Any] = self._method.computing(self._base.device.type, DTYPES[self.precision])
        return held

    def weights(self) -> dict[str, Tensor]:
        """The adapter's tensors, named as PEFT saves them."""
        weights: dict[str, Tensor] = self._method.weights(self.model)
        return weights

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put them back."""
        self._method.restore(self.model, weights)

    def files(self) -> dict[str, bytes]:
        """The bundle's files, in PEFT's format."""
        sealed = getattr(self._method, "sealed", None)
        tensors = sealed(self.model, DTYPES[self.precision]) if sealed else self.weights()
        weights = save(tensors, metadata={"format": "pt"})
        return {CONFIG: self._method.config(self.model, self._spec.base), WEIGHTS: bytes(weights)}

    def manifest(self) -> dict[str, Any]:
        """What the base and the rows fix."""
        return {
            "base_digest": self._base.digest,
            "system": self._system,
            "template_digest": self._base.template_digest,
            "stop_ids": self._base.stop_ids,
            "first_layer": self._first_layer,
        }

    def close(self) -> None:
        """Let go of the frozen layers' cache."""
        self._source.close()


def opening(base: TextBase, method: ModuleType) -> list[int]:
    """The tokens that open an answer, where the method acts from them on; none where it always acts."""
    return answer_header(base.tokenizer) if hasattr(method, "activate_by") else []


def encode(
    base: TextBase, split: SplitName, rows: Sequence[dict[str, Any]], header: Sequence[int] = ()
) -> list[Example]:
    """Rows as tokens with the mask of the trained ones, by the base's own template.

    With a header, that of the assistant's turn, the adapter acts from its last occurrence on, as it will when it is
    served, and only the last answer is trained.

    Raises:
        DataError: A row cannot be rendered or would not end in a stop token; says which.
    """
    examples = []
    for row in rows:
        name = f"{split}, row {row['row']}"
        try:
            encoded = encode_row(base.tokenizer, row["messages"], base.stop_ids)
        except DataError as error:
            raise DataError(error.what, where=f"{name}: {error.where}", remedy=error.remedy) from error
        examples.append(_example(name, encoded, list(header)))
    return examples


def _example(name: str, encoded: Encoded, header: list[int]) -> Example:
    if not header:
        return Example(name, tuple(encoded.ids), tuple(encoded.trained))
    answer = max(place for place, trained in enumerate(encoded.trained) if trained)
    while encoded.trained[answer - 1]:
        answer -= 1
    acts = answer - len(header)
    if encoded.ids[acts:answer] != header:
        raise DataError(
            "The answer does not follow the header that activates the adapter.",
            where=name,
            remedy="Use `lora`, or a base whose template opens every answer in the same way.",
        )
    trained = tuple(learn and place >= answer for place, learn in enumerate(encoded.trained))
    return Example(name, tuple(encoded.ids), trained, acts)


def preflight_rows(base: TextBase, spec: TrainSpec, train: list[Example], dev: list[Example], job: Job) -> None:
    """Check the rows and that the base runs packed, and leave a page with some rows in the job's folder.

    Raises:
        DataError: A row cannot be trained on; says which.
        InvalidRequest: The base cannot be tuned.
    """
    limit, pad = min(spec.max_tokens, base.config.context), base.tokenizer.pad_token_id
    found = preflight.check(train, base.stop_ids, pad, limit)
    if dev:
        preflight.check(dev, base.stop_ids, pad, base.config.context)  # the limit is that of the rows to be trained on
    preflight.show(train, base.tokenizer, job.folder / "preflight.html")
    check_packed(base.model, [train[0].ids, train[-1].ids])
    job.emit("preflight", 0, **found.model_dump(mode="json"))


def _system(conversations: list[list[dict[str, str]]]) -> str:
    """The system message that most rows start with."""
    firsts = Counter(row[0]["content"] for row in conversations if row[0]["role"] == "system")
    return firsts.most_common(1)[0][0] if firsts else ""
