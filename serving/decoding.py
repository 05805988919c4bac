"""The one decode loop: evaluation and every answer, streamed or not, run through `decode`.

Rows of a batch are padded on the left. Padding is masked out and positions are counted per row, so a row's tokens do
not depend on its neighbours. Rows that have ended leave the batch before the next step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from transformers import DynamicCache

from serving.sampling import Choice, Chooser, TokenLogprob, choose
from serving.textstream import TextStream

FinishReason = Literal["stop", "length"]
Prefix = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values per layer, each `[1, heads, tokens, width]`, of tokens that all rows begin with."""

BATCH_TOKENS = 8192
"""Upper bound of rows x longest prompt in one batch, which bounds the memory of a batch of long prompts."""


class Forward(Protocol):
    """Runs the model on the next tokens of a batch and grows the cache."""

    def __call__(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Logits `[rows, vocabulary]` after the last of ids `[rows, new]`; mask is `[rows, cached + new]`."""
        ...


@dataclass
class Row:
    """One answer in the making."""

    index: int
    prompt: list[int]
    limit: int
    """At most this many tokens are generated."""
    chooser: Chooser
    text: TextStream
    ids: list[int] = field(default_factory=list)
    """Generated so far, without the stop token."""
    generated: int = 0
    """Generated so far, with the stop token."""
    told: tuple[TokenLogprob, ...] = ()
    """The last token's log probability, where they were asked for; never the stop token's."""
    finish_reason: FinishReason | None = None

    def push(self, choice: Choice, stop_ids: Sequence[int]) -> str:
        """Take the next token; the text that became certain by it.

        Raises:
            InvalidRequest: The schema that the answer is held to led nowhere.
        """
        if choice.error:
            raise choice.error
        token = choice.token
        self.generated += 1
        self.told = () if token in stop_ids else choice.told
        if token in stop_ids:
            self.finish_reason = "stop"
            return self.text.finish()
        self.ids.append(token)
        piece = self.text.push(token)
        if self.text.stopped:
            self.finish_reason = "stop"
        elif self.chooser.ended or self.generated >= self.limit:
            piece += self.text.finish()
            self.finish_reason = "stop" if self.text.stopped or self.chooser.ended else "length"
        return piece


def batches(rows: Sequence[Row], limit: int) -> Iterator[list[Row]]:
    """Rows of like length together, longest first, so that the largest batch shows at once whether it fits."""
    part: list[Row] = []
    for row in sorted(rows, key=lambda row: -len(row.prompt)):
        if part and (len(part) == limit or (len(part) + 1) * len(part[0].prompt) > BATCH_TOKENS):
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def common_prefix(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with, at least one left over in each for a forward pass of its own."""
    first, last = min(prompts), max(prompts)  # in order: what these two share, all share
    limit = min(len(prompt) for prompt in prompts) - 1
    same = (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return max(0, min(limit, next(same, limit)))


def prefill(forward: Forward, ids: Sequence[int], device: torch.device) -> Prefix:
    """Keys and values of a prefix, computed once for all rows that share it."""
    tokens = torch.tensor([ids], device=device)
    cache = DynamicCache()
    forward(tokens, torch.ones_like(tokens), torch.arange(len(ids), device=device)[None], cache)
    return [(layer.keys, layer.values) for layer in cache.layers]


def decode(
    forward: Forward,
    rows: Sequence[Row],
    *,
    stop_ids: Sequence[int],
    device: torch.device,
    prefix: Prefix | None = None,
) -> Iterator[list[tuple[Row, str]]]:
    """Generate until every row has ended; a step yields the rows it advanced, each with its new text.

    The loop does nothing between two steps: closing the iterator stops it with the step that is running.
    """
    ids, mask, positions, cache = _start(rows, prefix, device)
    logits = forward(ids, mask, positions, cache)
    active = list(rows)
    while True:
        choices = choose(logits, [row.chooser for row in active])
        yield [(row, row.push(choice, stop_ids)) for row, choice in zip(active, choices, strict=True)]
        keep = [n for n, row in enumerate(active) if row.finish_reason is None]
        if not keep:
            return
        positions = positions[:, -1:] + 1
        if len(keep) < len(active):
            chosen = torch.tensor(keep, device=device)
            mask, positions = mask[chosen], positions[chosen]
            cache.batch_select_indices(chosen)
            active = [active[n] for n in keep]
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        ids = torch.tensor([choices[n].token for n in keep], device=device)[:, None]
        logits = forward(ids, mask, positions, cache)


def _start(
    rows: Sequence[Row], prefix: Prefix | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, DynamicCache]:
    """Prompt ids, mask and positions of a batch, and a cache that holds the shared prefix."""
    cache, known = DynamicCache(), 0
    if prefix:
        known = prefix[0][0].shape[-2]
        for layer, (keys, values) in enumerate(prefix):
            shape = (len(rows), -1, -1, -1)
            cache.update(keys.expand(shape), values.expand(shape), layer)
    parts = [row.prompt[known:] for row in rows]
    width = max(len(part) for part in parts)
    padding = [width - len(part) for part in parts]
    ids = torch.tensor([[0] * pad + part for pad, part in zip(padding, parts, strict=True)], device=device)
    mask = torch.tensor([[1] * known + [0] * pad + [1] * (width - pad) for pad in padding], device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, known:]
    return ids, mask, positions, cache
