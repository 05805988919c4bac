"""From rows to what the tuned layers run on: packed hidden states at the boundary, and what to predict where."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from moatelier.ids import digest_json
from modalities.frozen import FrozenStates, Layers, open_states
from modalities.machine import DTYPES
from modalities.text.model import TextBase
from modalities.text.packed import Layout, common_beginning, layout, run_layers
from training.acting import acting_on
from training.batches import Example

FILL_TOKENS = 4096
"""Tokens that go through the frozen layers at once while the cache is filled."""


@dataclass(frozen=True)
class Inputs:
    """One packed micro-batch.

    Attributes:
        hidden: `[1, tokens, width]`, what the frozen layers made of the tokens.
        layout: Where the tokens stand.
        predicting: `[targets]`, packed index of the token before each trained one.
        targets: `[targets]`, the trained ids.
        acting: `[tokens]`, on which tokens the adapter acts; None is all.
    """

    hidden: Tensor
    layout: Layout
    predicting: Tensor
    targets: Tensor
    acting: Tensor | None = None


class Source:
    """Packed inputs for any of the given rows; the frozen layers below `first_layer` run once per distinct row.

    Args:
        base: The loaded base; only its frozen part is used.
        examples: All rows that will be asked for, of all splits.
        first_layer: The first layer that the adapter changes.
        precision: What the base computes in, as part of the cache's key.
        progress: Told (batches done, batches in all) while the cache is filled; may raise to stop.
        cache: Keep the frozen layers' output on disk if it fits there.
        shared: At most so many tokens count as the rows' common beginning, whatever they are; None is no limit.
    """

    def __init__(
        self,
        base: TextBase,
        examples: Sequence[Example],
        first_layer: int,
        precision: str,
        progress: Callable[[int, int], None] = lambda *_: None,
        *,
        cache: bool = True,
        shared: int | None = None,
    ) -> None:
        self._base, self._examples, self._first = base, examples, first_layer
        self._device = next(base.model.parameters()).device
        distinct = sorted({example.ids for example in examples}, key=lambda ids: (len(ids), ids))
        limit = min(example.acts or example.targets[0] - 1 for example in examples)
        limit = limit if shared is None else min(limit, shared)
        self.prefix = common_beginning(distinct, limit)
        """Tokens that all rows share at their beginning; they are run once a batch."""
        # Item 0 is the shared beginning, item n the n-th distinct row's own tokens.
        self._own = [distinct[0][: self.prefix], *(ids[self.prefix :] for ids in distinct)]
        self._item = {ids: number for number, ids in enumerate(distinct, start=1)}
        self._states = self._open(precision, progress, cache)
        self.recompute = False
        """Whether the tuned layers' activations are computed twice instead of kept for the way back."""

    def _open(self, precision: str, progress: Callable[[int, int], None], cache: bool) -> FrozenStates:
        embedding = self._base.model.get_input_embeddings().weight
        layers = Layers(
            key={
                "base": self._base.digest,
                "boundary": self._first,
                "template": self._base.template_digest,
                "precision": precision,
                "device": self._device.type,
                "rows": digest_json(self._own),
            },
            sizes=tuple(len(own) for own in self._own),
            width=embedding.shape[1],
            dtype=embedding.dtype,
            batches=fill_batches([len(own) for own in self._own]),
        )
        if not cache or self._first == 0:  # embeddings are looked up faster than they are read
            return FrozenStates(layers, self._compute, None, None)
        return open_states(layers, self._compute, progress)

    @property
    def cached(self) -> bool:
        """Whether the frozen layers' output lies on disk; else it is computed at each use."""
        return self._states.cached

    def _compute(self, items: Sequence[int]) -> Tensor:
        rows = [self._own[item] for item in items if item]
        ids = [*self._own[0], *(token for row in rows for token in row)]
        if not rows:
            rows, ids = [self._own[0]], [*self._own[0]]
        prefix = self.prefix if items and any(items) else 0
        places = layout([len(row) for row in rows], prefix, self._device)
        embedded = self._base.model.get_input_embeddings()(torch.tensor([ids], device=self._device))
        embedded = embedded.to(DTYPES[self._base.precision])  # embeddings that are trained are kept in float32
        states = run_layers(self._base.model.get_decoder(), embedded, places, 0, self._first)[0]
        return states if 0 in items else states[prefix:]

    def inputs(self, rows: Sequence[int]) -> Inputs:
        """The packed micro-batch of these rows, as indices into `examples`."""
        examples = [self._examples[row] for row in rows]
        items = [self._item[example.ids] for example in examples]
        states = self._read([0, *items] if self.prefix else items).to(self._device)
        places = layout([len(example.ids) - self.prefix for example in examples], self.prefix, self._device)
        predicting, targets = [], []
        for start, example in zip(places.starts, examples, strict=True):
            predicting += [start + position - 1 - self.prefix for position in example.targets]
            targets += [example.ids[position] for position in example.targets]
        return Inputs(
            hidden=states[None],
            layout=places,
            predicting=torch.tensor(predicting, device=self._device),
            targets=torch.tensor(targets, device=self._device),
            acting=self._acting(examples),
        )

    def _read(self, items: Sequence[int]) -> Tensor:
        if self._base.model.get_input_embeddings().weight.requires_grad:  # then nothing is frozen
            return self._compute(items)
        return self._states.read(items)

    def _acting(self, examples: Sequence[Example]) -> Tensor | None:
        if not any(example.acts for example in examples):
            return None
        own = [place >= example.acts for example in examples for place in range(self.prefix, len(example.ids))]
        return torch.tensor([False] * self.prefix + own, dtype=torch.float32, device=self._device)

    def tuned(self, inputs: Inputs) -> Tensor:
        """Run the layers from the boundary up: `[targets, width]`, after the final norm, ready for the head."""
        decoder: Any = self._base.model.get_decoder()
        layers = (self._first, len(decoder.layers))
        acting = partial(acting_on, inputs.acting)
        with acting():
            again = acting if self.recompute else None
            hidden = run_layers(decoder, inputs.hidden, inputs.layout, *layers, inputs.predicting, again)
        normed: Tensor = decoder.norm(hidden[0].index_select(0, inputs.predicting))
        return normed

    def close(self) -> None:
        """Let go of the cache."""
        self._states.close()


def fill_batches(sizes: Sequence[int], most: int | None = None) -> tuple[range, ...]:
    """Consecutive items whose sizes add up to at most `most` (`FILL_TOKENS`); a larger item stands alone."""
    limit = FILL_TOKENS if most is None else most
    batches, start, tokens = [], 0, 0
    for item, size in enumerate(sizes):
        if tokens and tokens + size > limit:
            batches.append(range(start, item))
            start, tokens = item, 0
        tokens += size
    return (*batches, range(start, len(sizes)))
