"""What a lane takes from the cache of blocks before it computes, and what it leaves there for others."""

from collections.abc import Sequence

import torch

from serving.kv import BLOCK, Block, Blocks
from serving.room import Seat
from serving.row import Lane


class Sharing:
    """Moves blocks between lanes and the cache.

    Args:
        blocks: The cache.
        boundary: The first layer of the upper segment.
    """

    def __init__(self, blocks: Blocks, boundary: int) -> None:
        self._blocks, self._lower, self._upper = blocks, slice(0, boundary), slice(boundary, None)

    def attach(self, lane: Lane, upper: int) -> None:
        """Take over what others have computed of the lane's tokens since it last looked.

        Args:
            lane: One that reads.
            upper: Tokens whose states above the boundary the row does not need; the others' are left to be computed.
        """
        seat = lane.seat
        assert seat is not None
        if seat.lower % BLOCK or seat.tokens % BLOCK:
            return
        # The last token is always computed: its logits are what the row goes on from.
        whole = (len(lane.ids) - 1) // BLOCK * BLOCK
        for block in self._blocks.find(lane.lower.keys(lane.ids, whole)[seat.lower // BLOCK :]):
            _copy(block, seat, self._lower, seat.lower)
            assert block.hidden is not None
            seat.room.hidden[seat.slot, seat.lower : seat.lower + BLOCK] = block.hidden
            seat.lower += BLOCK
        known = min(seat.lower, whole, upper // BLOCK * BLOCK)
        if known > seat.tokens:
            for block in self._blocks.find(lane.upper.keys(lane.ids, known)[seat.tokens // BLOCK :]):
                _copy(block, seat, self._upper, seat.tokens)
                seat.tokens += BLOCK

    def publish(self, lane: Lane) -> None:
        """Keep the whole blocks that a lane has computed for those who begin alike."""
        seat = lane.seat
        assert seat is not None
        # From the end, so that a chain's head is the last of it to be evicted.
        for start, key in self._missing(lane.lower.keys(lane.ids, seat.tokens), seat):
            hidden = seat.room.hidden[seat.slot, start : start + BLOCK].clone()
            self._blocks.put(key, Block(*_states(seat, self._lower, start), hidden))
        for start, key in self._missing(lane.upper.keys(lane.ids, seat.tokens), seat):
            self._blocks.put(key, Block(*_states(seat, self._upper, start), None))

    def _missing(self, keys: Sequence[bytes], seat: Seat) -> list[tuple[int, bytes]]:
        size = BLOCK * seat.room.shape.token_bytes  # at most
        return [
            (number * BLOCK, key) for number, key in reversed(list(enumerate(keys))) if self._blocks.wanted(key, size)
        ]


def _copy(block: Block, seat: Seat, layers: slice, start: int) -> None:
    seat.room.keys[layers, seat.slot, :, start : start + BLOCK] = block.keys
    seat.room.values[layers, seat.slot, :, start : start + BLOCK] = block.values


def _states(seat: Seat, layers: slice, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    place = slice(start, start + BLOCK)
    room = seat.room
    return room.keys[layers, seat.slot, :, place].clone(), room.values[layers, seat.slot, :, place].clone()
