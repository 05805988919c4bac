"""Attention of one pass: the lanes that decode, a room at a time, and the spans of prompts that are read."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from serving.room import Room, Seat


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `stop` of a seat; those before are there already."""

    seat: Seat
    start: int
    stop: int

    @property
    def tokens(self) -> int:
        """How many."""
        return self.stop - self.start


@dataclass(eq=False)
class _Decoding:
    """The lanes of a room that get one more token each."""

    room: Room
    places: torch.Tensor
    """Each one's position, `[lanes]`."""
    length: int
    slots: torch.Tensor
    masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)


class Attention:
    """Stores new keys and values, and attends. Tokens are in this order: `rooms`, slot by slot, then `spans`.

    Args:
        rooms: In which all lanes before `decoding` get one more token.
        spans: Prompt tokens.
        scale: Of the products of query and key.
        cap: Softcap of the scores, or None.
    """

    def __init__(self, rooms: Sequence[Room], spans: Sequence[Span], scale: float, cap: float | None) -> None:
        self._decoding = [_decoding(room) for room in rooms]
        self._spans, self._scale, self._cap = spans, scale, cap
        self._masks: dict[tuple[int, int | None], torch.Tensor] = {}

    def __call__(
        self, layer: int, window: int | None, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """`[tokens, heads, width]` for q of that shape and k, v `[tokens, kv_heads, width]`."""
        seen: list[torch.Tensor] = []
        at = 0
        for group in self._decoding:
            n = len(group.slots)
            part = slice(at, at + n)
            seen.append(self._decode(group, layer, window, q[part], k[part], v[part]))
            at += n
        for number, span in enumerate(self._spans):
            part = slice(at, at + span.tokens)
            seen.append(self._read(number, span, layer, window, q[part], k[part], v[part]))
            at += span.tokens
        return seen[0] if len(seen) == 1 else torch.cat(seen)

    def _decode(
        self,
        group: _Decoding,
        layer: int,
        window: int | None,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
    ) -> torch.Tensor:
        n, heads, width = q.shape
        keys, values = group.room.keys[layer], group.room.values[layer]
        keys[group.slots, :, group.places] = k
        values[group.slots, :, group.places] = v
        if window not in group.masks:
            group.masks[window] = _decode_mask(group.places, group.length, window, q.dtype)
        seen = self._attend(
            q.view(n, k.shape[1], -1, width),
            keys[:n, :, : group.length],
            values[:n, :, : group.length],
            group.masks[window],
        )
        return seen.reshape(n, heads, width)

    def _read(
        self,
        number: int,
        span: Span,
        layer: int,
        window: int | None,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
    ) -> torch.Tensor:
        tokens, heads, width = q.shape
        room, slot = span.seat.room, span.seat.slot
        keys, values = room.keys[layer, slot], room.values[layer, slot]
        keys[:, span.start : span.stop] = k.transpose(0, 1)
        values[:, span.start : span.stop] = v.transpose(0, 1)
        groups = heads // k.shape[1]
        if (number, window) not in self._masks:
            self._masks[number, window] = _read_mask(span, window, q).repeat(groups, 1)
        # The heads that share a key stand below each other, so that keys need no copies of themselves.
        rows = q.view(tokens, -1, groups, width).permute(1, 2, 0, 3).reshape(1, -1, groups * tokens, width)
        seen = self._attend(rows, keys[None, :, : span.stop], values[None, :, : span.stop], self._masks[number, window])
        return seen.view(-1, groups, tokens, width).permute(2, 0, 1, 3).reshape(tokens, heads, width)

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Softmax of `[rows, kv_heads, queries, keys]` scores over values `[rows, kv_heads, keys, width]`."""
        if self._cap is None:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self._scale)
        scores = self._cap * torch.tanh((q @ k.transpose(-1, -2)).float() * (self._scale / self._cap))
        if mask is not None:
            scores = scores + mask
        return torch.softmax(scores, dim=-1).to(v.dtype) @ v


def _decoding(room: Room) -> _Decoding:
    device = room.keys.device
    tokens = [seat.tokens for seat in room.seats[: room.decoding]]
    return _Decoding(
        room, torch.tensor(tokens, device=device), max(tokens) + 1, torch.arange(len(tokens), device=device)
    )


def _decode_mask(places: torch.Tensor, length: int, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
    keys = torch.arange(length, device=places.device)
    seen = keys <= places[:, None]
    if window is not None:
        seen &= keys > places[:, None] - window
    if bool(seen.all()):
        return None
    return _additive(seen, dtype)[:, None, None]


def _read_mask(span: Span, window: int | None, like: torch.Tensor) -> torch.Tensor:
    rows = torch.arange(span.start, span.stop, device=like.device)[:, None]
    keys = torch.arange(span.stop, device=like.device)
    seen = keys <= rows
    if window is not None:
        seen &= keys > rows - window
    return _additive(seen, like.dtype)


def _additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
