"""Where running lanes keep their keys and values: side by side in rooms, each of slots of equal length.

So one attention call serves all lanes of a room that decode. A room's slots are in order: first the lanes that decode,
then those whose prompt is still being read. A lane that outgrows its room moves to the next larger one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from serving.memory import Memory

SMALLEST = 128
"""Tokens of the smallest room; each next one is twice as long."""


@dataclass(frozen=True)
class Shape:
    """What a token takes in a room."""

    layers: int
    kv_heads: int
    head_width: int
    width: int
    """Of the hidden state at the boundary between the segments."""
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Bytes of a token."""
        return (2 * self.layers * self.kv_heads * self.head_width + self.width) * self.dtype.itemsize


@dataclass(eq=False)
class Seat:
    """A lane's place: which room and which slot. Empty before the lane runs and after it left."""

    room: "Room"
    slot: int
    tokens: int = 0
    """How many tokens are there, in all layers; what lies behind them has no meaning."""
    lower: int = 0
    """How many tokens the layers below the boundary have computed; never fewer than `tokens`."""


@dataclass(eq=False)
class Room:
    """Slots of `capacity` tokens each.

    Attributes:
        owner: Digest of the whole weights that all lanes here run with; empty for the base's.
        keys: `[layers, slots, kv_heads, capacity, head_width]`, as `values`.
        hidden: `[slots, capacity, width]` at the boundary.
        seats: Who sits where; those before `decoding` decode.
    """

    capacity: int
    shape: Shape
    memory: Memory
    owner: str = ""
    keys: torch.Tensor = field(init=False)
    values: torch.Tensor = field(init=False)
    hidden: torch.Tensor = field(init=False)
    seats: list[Seat] = field(default_factory=list)
    decoding: int = 0

    def __post_init__(self) -> None:
        self._allocate(0)

    @property
    def slot_bytes(self) -> int:
        """What one more slot takes."""
        return self.capacity * self.shape.token_bytes

    @property
    def slots(self) -> int:
        """Slots allocated."""
        return self.keys.shape[1]

    def join(self) -> Seat | None:
        """A new seat, not decoding yet; None when memory has no room for it."""
        if len(self.seats) == self.slots:
            wished = {max(1, self.slots), 1}  # twice as many, so that growing is rare; else what is needed
            more = next((n for n in sorted(wished, reverse=True) if self.memory.take(n * self.slot_bytes)), 0)
            if not more:
                return None
            try:
                self._allocate(self.slots + more)
            except BaseException:
                self.memory.give(more * self.slot_bytes)
                raise
        seat = Seat(self, len(self.seats))
        # What lies behind a lane's tokens is weighed by 0, and 0 times NaN is NaN: nothing may be left of another lane.
        self.values[:, seat.slot].zero_()
        self.seats.append(seat)
        return seat

    def promote(self, seat: Seat) -> None:
        """The lane's prompt has been read: from now on it decodes."""
        assert seat.slot >= self.decoding
        self._swap(seat, self.seats[self.decoding])
        self.decoding += 1

    def leave(self, seat: Seat) -> None:
        """Free a seat. Others may move to another slot."""
        if seat.slot < self.decoding:
            self._swap(seat, self.seats[self.decoding - 1])
            self.decoding -= 1
        self._swap(seat, self.seats[-1])
        self.seats.pop()
        if len(self.seats) <= self.slots // 4:
            self.shrink(self.slots // 2 if self.seats else 0)

    def copy_in(self, seat: Seat, other: Seat) -> None:
        """Take over the tokens of a seat in another room."""
        here, there, n = self, other.room, other.tokens
        here.keys[:, seat.slot, :, :n] = there.keys[:, other.slot, :, :n]
        here.values[:, seat.slot, :, :n] = there.values[:, other.slot, :, :n]
        here.hidden[seat.slot, : other.lower] = there.hidden[other.slot, : other.lower]
        seat.tokens, seat.lower = other.tokens, other.lower

    def shrink(self, slots: int) -> None:
        """Keep no more than so many slots, at least those that are taken."""
        freed = self.slots - slots
        if freed <= 0:
            return
        try:
            self._allocate(slots)
        except RuntimeError:  # no memory even for less of it: a lane that leaves must be able to leave
            return
        self.memory.give(freed * self.slot_bytes)

    def _swap(self, one: Seat, other: Seat) -> None:
        if one is other:
            return
        a, b = one.slot, other.slot
        for states in (self.keys, self.values):
            upto = max(one.lower, other.lower)
            kept = states[:, a, :, :upto].clone()
            states[:, a, :, :upto] = states[:, b, :, :upto]
            states[:, b, :, :upto] = kept
        upto = max(one.lower, other.lower)
        kept = self.hidden[a, :upto].clone()
        self.hidden[a, :upto] = self.hidden[b, :upto]
        self.hidden[b, :upto] = kept
        self.seats[a], self.seats[b] = other, one
        one.slot, other.slot = b, a

    def _allocate(self, slots: int) -> None:
        shape, kept = self.shape, len(self.seats)
        place: dict[str, Any] = {"dtype": shape.dtype, "device": shape.device}
        keys = torch.zeros(shape.layers, slots, shape.kv_heads, self.capacity, shape.head_width, **place)
        values, hidden = torch.zeros_like(keys), torch.zeros(slots, self.capacity, shape.width, **place)
        if kept:
            keys[:, :kept], values[:, :kept], hidden[:kept] = (
                self.keys[:, :kept],
                self.values[:, :kept],
                self.hidden[:kept],
            )
        self.keys, self.values, self.hidden = keys, values, hidden


class Rooms:
    """Rooms by length.

    Args:
        shape: Of a token.
        memory: Rooms take their bytes from it.
    """

    def __init__(self, shape: Shape, memory: Memory) -> None:
        self._shape, self._memory = shape, memory
        self._rooms: dict[tuple[str, int], Room] = {}

    def __iter__(self) -> Iterator[Room]:
        return iter(self._rooms.values())

    def enter(self, tokens: int, owner: str = "") -> Seat | None:
        """A seat for so many tokens; None when memory has no room for it.

        Args:
            tokens: How many.
            owner: See `Room`.
        """
        key = owner, SMALLEST << max(0, -(-tokens // SMALLEST) - 1).bit_length()
        if key not in self._rooms:
            self._rooms = {other: room for other, room in self._rooms.items() if room.seats or not room.owner}
            self._rooms[key] = Room(key[1], self._shape, self._memory, owner)
        seat = self._rooms[key].join()
        if seat is None:  # then nobody may keep slots for those who may come
            for room in self:
                room.shrink(len(room.seats))
            seat = self._rooms[key].join()
        return seat

    def stretch(self, seat: Seat, tokens: int) -> Seat | None:
        """The seat, or one in a larger room, so that it holds so many tokens; None when memory has no room."""
        if tokens <= seat.room.capacity:
            return seat
        larger = self.enter(tokens, seat.room.owner)
        if larger is None:
            return None
        decodes = seat.slot < seat.room.decoding
        larger.room.copy_in(larger, seat)
        seat.room.leave(seat)
        if decodes:
            larger.room.promote(larger)
        return larger
