"""Runs of decoder layers over packed rows: no padding, and the rows' common beginning computed once.

A packed batch is one sequence `[1, tokens, width]`: first the beginning that all rows share (system message and
template), then what each row has of its own. Linear layers and norms, which are nearly all of the work, run on it
directly; attention alone unfolds it into rows. Packed equals unpacked up to float rounding, token by token.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from moatelier.errors import InvalidRequest

_IMPLEMENTATION = "moatelier_packed"
_SHORT = 512
"""Up to so many tokens a row's attention is spelt out on a CPU; above, its scores would take too much memory."""


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a packed batch stand.

    Attributes:
        positions: `[1, tokens]`, each token's position in its own row.
        unfold: `[rows * longest]`, for each place of the padded rows the packed token that stands there.
        fold: `[tokens]`, for each packed token its place in the padded rows.
        rows: Number of rows.
        starts: For each row the packed index of its first own token.
    """

    positions: Tensor
    unfold: Tensor
    fold: Tensor
    rows: int
    starts: tuple[int, ...]


def common_beginning(rows: Sequence[Sequence[int]], limit: int) -> int:
    """How many leading tokens all rows share, at most `limit` and always leaving each row one of its own."""
    shortest = min((len(row) for row in rows), default=0)
    length = max(min(limit, shortest - 1), 0)
    return next((at for at in range(length) if any(row[at] != rows[0][at] for row in rows)), length)


def layout(lengths: Sequence[int], prefix: int, device: torch.device | str = "cpu") -> Layout:
    """Lay out rows with `lengths` own tokens each after `prefix` shared ones."""
    longest = prefix + max(lengths)
    starts, positions, fold = [], list(range(prefix)), list(range(prefix))
    unfold = torch.zeros(len(lengths), longest, dtype=torch.long)
    unfold[:, :prefix] = torch.arange(prefix)
    for row, length in enumerate(lengths):
        start = len(positions)
        starts.append(start)
        positions.extend(range(prefix, prefix + length))
        fold.extend(range(row * longest + prefix, row * longest + prefix + length))
        unfold[row, prefix : prefix + length] = torch.arange(start, start + length)
    return Layout(
        positions=torch.tensor([positions], device=device),
        unfold=unfold.flatten().to(device),
        fold=torch.tensor(fold, device=device),
        rows=len(lengths),
        starts=tuple(starts),
    )


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row. `query`, `key`, `value` are `[1, heads, tokens, size]`, packed."""
    longest = layout.unfold.numel() // layout.rows
    if options.get("softcap") is not None or (options.get("sliding_window") or longest) < longest:
        raise InvalidRequest(
            "This model's attention is capped or windowed, which training does not support.",
            where=type(module).__name__,
            remedy="Tune another base, or shorter rows.",
        )

    def unfolded(states: Tensor) -> Tensor:
        rows = states[0].transpose(0, 1).index_select(0, layout.unfold)
        return rows.view(layout.rows, longest, *rows.shape[1:]).transpose(1, 2)

    mixed = _causal(unfolded(query), unfolded(key), unfolded(value), scaling, dropout)
    packed = mixed.transpose(1, 2).reshape(layout.rows * longest, *mixed.shape[1::2])
    return packed.index_select(0, layout.fold)[None], None


def _causal(query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float) -> Tensor:
    """Causal attention `[rows, heads, tokens, size]`; several heads of the query may share one of key and value."""
    groups, longest = query.shape[1] // key.shape[1], query.shape[2]
    if query.device.type == "cpu" and longest <= _SHORT and not dropout:
        return _spelt_out(query, key, value, scale, groups)
    keys, values = (states.repeat_interleave(groups, 1) for states in (key, value))
    return nn.functional.scaled_dot_product_attention(
        query, keys, values, dropout_p=dropout, is_causal=True, scale=scale
    )


def _spelt_out(query: Tensor, key: Tensor, value: Tensor, scale: float, groups: int) -> Tensor:
    """The same by plain products, heads that share keys as more rows of one product.

    torch's fused attention walks back through short rows on a CPU many times slower than forward (docs/log.md,
    2026-11-30).
    """
    rows, heads, longest, size = query.shape
    many = rows * heads // groups
    mask = query.new_full((longest, longest), -torch.inf).triu(1).repeat(groups, 1)
    scores = torch.baddbmm(
        mask.expand(many, -1, -1),
        query.reshape(many, groups * longest, size),
        key.reshape(many, longest, size).transpose(1, 2),
        alpha=scale,
    )
    mixed = torch.bmm(scores.softmax(-1), value.reshape(many, longest, size))
    return mixed.view(rows, heads, longest, size)


AttentionInterface.register(_IMPLEMENTATION, _attention)


@contextmanager
def _packed_attention(config: Any) -> Iterator[None]:
    before = config._attn_implementation
    config._attn_implementation = _IMPLEMENTATION
    try:
        yield
    finally:
        config._attn_implementation = before


@contextmanager
def _only_at(layer: Any, places: Tensor | None) -> Iterator[None]:
    """Run the layer's feed-forward part at some places only; elsewhere it adds nothing."""
    part = getattr(layer, "mlp", None)
    if part is None or places is None:
        yield
        return
    whole = part.forward

    def forward(hidden: Tensor) -> Tensor:
        return torch.zeros_like(hidden).index_copy(1, places, whole(hidden.index_select(1, places)))

    part.forward = forward
    try:
        yield
    finally:
        del part.forward


Around = Callable[[], AbstractContextManager[None]]
"""Makes what has to be open around a layer that is run once more."""


def run_layers(
    decoder: Any,
    hidden: Tensor,
    layout: Layout,
    first: int,
    last: int,
    needed: Tensor | None = None,
    recompute: Around | None = None,
) -> Tensor:
    """Run the decoder's layers `first` to `last` (excluded).

    Args:
        decoder: A Llama-like decoder of transformers, with `layers` and `rotary_emb`; adapters in it take part.
        hidden: `[1, tokens, width]`, packed; for `first == 0` the token embeddings.
        layout: Where the tokens stand.
        first: Index of the first layer to run.
        last: Index after the last layer to run.
        needed: `[n]`, places that will be read, if not all: the last layer's feed-forward part runs only there.
        recompute: Keep only what goes into each layer for the way back, and run it once more there, inside of this
            (Chen et al. 2016, arXiv 1604.06174). The same bits, for a fraction of the memory and a third more work.

    Returns:
        `[1, tokens, width]`, before the final norm; right at the places that are needed.
    """
    rope = decoder.rotary_emb(hidden, position_ids=layout.positions)

    def run(layer: Any, hidden: Tensor, places: Tensor | None) -> Tensor:
        with _packed_attention(decoder.config), _only_at(layer, places):
            states: Tensor = layer(
                hidden, attention_mask=None, position_ids=layout.positions, position_embeddings=rope, layout=layout
            )
            return states

    for number, layer in enumerate(decoder.layers[first:last], start=first + 1):
        places = needed if number == last else None
        if recompute is None or not torch.is_grad_enabled():
            hidden = run(layer, hidden, places)
        else:
            around = partial(_both, recompute)
            hidden = checkpoint(run, layer, hidden, places, use_reentrant=False, context_fn=around)
    return hidden


def _both(recompute: Around) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), recompute()


def check_packed(model: Any, rows: Sequence[Sequence[int]]) -> None:
    """Check that packed runs give this model's own logits.

    Models that scale embeddings or logits outside of their layers, or whose attention is special, do not pass.

    Args:
        model: A causal model of transformers.
        rows: Token ids, a few rows.

    Raises:
        InvalidRequest: The logits differ.
    """
    device, decoder = model.get_input_embeddings().weight.device, model.get_decoder()
    prefix = common_beginning(rows, 8)
    ids = [*rows[0][:prefix], *(token for row in rows for token in row[prefix:])]
    places = layout([len(row) - prefix for row in rows], prefix, device)
    with torch.inference_mode():
        embedded = model.get_input_embeddings()(torch.tensor([ids], device=device))
        hidden = decoder.norm(run_layers(decoder, embedded, places, 0, len(decoder.layers)))[0]
        ends = [start + len(row) - prefix - 1 for start, row in zip(places.starts, rows, strict=True)]
        packed = model.get_output_embeddings()(hidden[ends]).float()
        own = torch.stack([model(torch.tensor([row], device=device)).logits[0, -1].float() for row in rows])
    difference = float((packed - own).abs().max())
    tolerance = (1e-3 if embedded.dtype == torch.float32 else 0.1) * float(own.abs().max())
    if not difference <= tolerance:
        raise InvalidRequest(
            f"This model does more than run its layers: packed logits differ by {difference:.3g}.",
            where=type(model).__name__,
            remedy="Tune another base.",
        )
