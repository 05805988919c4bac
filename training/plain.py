"""Continued pre-training on plain text: every token of every document, packed into blocks.

A block is a row to the loop. Within it documents are packed as rows are in a micro-batch: each attends to itself alone,
with positions of its own, so that nothing leaks from one into the next (trl#1230, trl#3067).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from moatelier.contracts import DatasetCard, SplitName, TrainSpec
from moatelier.errors import DataError, InvalidRequest
from moatelier.ids import digest_json
from moatelier.job import Job
from modalities.text.documents import CONTENT, blocks, pieces
from modalities.text.model import TextBase, load_base
from modalities.text.packed import check_packed
from training import methods, preflight
from training.batches import MICRO_TOKENS, Example
from training.text import TextObjective


def prepare(
    spec: TrainSpec, card: DatasetCard, rows: Mapping[str, Sequence[dict[str, Any]]], job: Job
) -> "PlainObjective":
    """Everything up to the first step.

    Raises:
        InvalidRequest: The method acts on answers only, of which there are none.
        DataError: There is no text to train on; says which row.
        Cancelled: The job was asked to stop.
        ResourceExhausted: The time limit was used up by the frozen layers.
    """
    if hasattr(methods.load(spec, "text"), "activate_by"):
        raise InvalidRequest(
            f"{spec.method} acts on answers, and plain text has none.", where="method", remedy="Use lora or full."
        )
    base = load_base(spec.base, spec.precision)
    most = min(spec.max_tokens, base.config.context)
    train, dev = (encode(base, split, rows[split], most) for split in ("train", "dev"))
    found = preflight.check(train, None, base.tokenizer.pad_token_id, most)
    preflight.show(train, base.tokenizer, job.folder / "preflight.html")
    check_packed(base.model, [train[0].ids, train[-1].ids])
    job.emit("preflight", 0, **found.model_dump(mode="json"))
    return PlainObjective(spec, TextObjective(spec, base, [*train, *dev], (), "", job), train, dev, most)


def encode(base: TextBase, split: SplitName, rows: Sequence[dict[str, Any]], most: int) -> list[Example]:
    """Documents as pieces of at most `most` tokens, all trained but the first of each.

    Raises:
        DataError: A row has no text; says which.
    """
    examples = []
    for row in rows:
        name = f"{split}, row {row['row']}"
        try:
            cut = pieces(base.tokenizer, str(row.get(CONTENT) or ""), most)
        except DataError as error:
            raise DataError(error.what, where=f"{name}: {error.where}", remedy=error.remedy) from error
        examples += [Example(name, tuple(ids), (False, *[True] * (len(ids) - 1))) for ids in cut]
    return examples


class PlainObjective:
    """See `training.objective.Prepared`; its rows are blocks.

    Args:
        spec: What to do.
        inner: The objective of the pieces.
        train: Pieces to train on, the first ones of `inner`.
        dev: The others.
        most: Tokens of a block.
    """

    micro, solved = MICRO_TOKENS, False

    def __init__(
        self, spec: TrainSpec, inner: TextObjective, train: Sequence[Example], dev: Sequence[Example], most: int
    ) -> None:
        self._inner = inner
        own, other = (blocks([len(piece.ids) for piece in part], most) for part in (train, dev))
        self._blocks = own + [[len(train) + piece for piece in block] for block in other]
        self.train_rows = len(own)
        """How many of the blocks are for training."""
        self.sizes = [sum(inner.sizes[piece] for piece in block) for block in self._blocks]
        self.units = [sum(inner.units[piece] for piece in block) for block in self._blocks]
        self.data = digest_json([inner.data, self._blocks])
        self.model, self.precision, self.seconds = inner.model, inner.precision, inner.seconds
        self.weights, self.restore = inner.weights, inner.restore
        self.files, self.manifest, self.close = inner.files, inner.manifest, inner.close

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Cross-entropy summed over the blocks' tokens."""
        return self._inner.loss(self._pieces(rows))

    def token_errors(self, rows: Sequence[int]) -> Tensor:
        """How many of their tokens are not what the model finds likeliest."""
        return self._inner.token_errors(self._pieces(rows))

    def _pieces(self, rows: Sequence[int]) -> list[int]:
        return [piece for row in rows for piece in self._blocks[row]]
