"""Keys and values of prompts already computed, in blocks of tokens, for requests that begin alike.

A block belongs to a *segment* of the layers: the lower one ends where adapters begin by default. It is named by what
computed it (its *owner*: the base's digest or an adapter's content digest, never a name: vllm#42125), its tokens and
all that came before. The lower block also holds the hidden states that the upper layers start from, so that another
adapter of the upper layers goes on from there without computing the lower ones again.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from serving.memory import Memory

BLOCK = 16
"""Tokens of a block. What a prompt has beyond its last whole block is computed anew each time."""

BlockKey = bytes


@dataclass(frozen=True)
class Block:
    """Computed states of `BLOCK` tokens in one segment."""

    keys: torch.Tensor
    """`[layers, kv_heads, BLOCK, head_width]`."""
    values: torch.Tensor
    hidden: torch.Tensor | None
    """`[BLOCK, width]` after the segment's last layer, in the lower segment only."""

    @property
    def bytes(self) -> int:
        """What it takes."""
        return self.keys.nbytes + self.values.nbytes + (0 if self.hidden is None else self.hidden.nbytes)


class Blocks:
    """The cache of blocks, within the engine's memory.

    Args:
        memory: Evicts blocks when it needs their room.
        enabled: False forgets everything at once, for comparison.
    """

    def __init__(self, memory: Memory, enabled: bool = True) -> None:
        self._memory, self._enabled = memory, enabled
        self._blocks: dict[BlockKey, Block] = {}
        self.hits = self.misses = 0
        """Blocks found, and looked for in vain, so far."""

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, key: object) -> bool:
        return key in self._blocks

    def find(self, keys: Sequence[BlockKey]) -> list[Block]:
        """The blocks at the beginning of a chain, up to the first that is not there."""
        found: list[Block] = []
        for key in keys:
            block = self._blocks.get(key)
            if block is None:
                self.misses += 1
                break
            found.append(block)
        # The last block is touched first: without its head a chain is worth nothing, so the head must go last.
        for key in reversed(keys[: len(found)]):
            self._memory.touch(key)
        self.hits += len(found)
        return found

    def wanted(self, key: BlockKey, size: int) -> bool:
        """Whether a block of so many bytes is not there yet and may be kept."""
        return self._enabled and key not in self._blocks and self._memory.fits(size)

    def put(self, key: BlockKey, block: Block) -> None:
        """Keep a block if there is room and it is not there yet."""
        if self.wanted(key, block.bytes) and self._memory.keep(key, block.bytes, lambda: self._drop(key)):
            self._blocks[key] = block

    def clear(self) -> None:
        """Forget all blocks."""
        for key in list(self._blocks):
            self._memory.forget(key)
            self._drop(key)

    def _drop(self, key: BlockKey) -> None:
        del self._blocks[key]


class Chain:
    """The names of one row's blocks in one segment; grows with the row's tokens.

    Args:
        segment: `lower` or `upper`.
        owner: Digest of what computes the row.
        before: Digest of what computes the tokens before `switch`.
        switch: The first token that `owner` computes; 0 for all of them. A block across it belongs to `owner`.
    """

    def __init__(self, segment: str, owner: str, before: str = "", switch: int = 0) -> None:
        self._segment, self._owner, self._before, self._switch = segment, owner, before, switch
        self._keys: list[BlockKey] = []

    def keys(self, ids: Sequence[int], tokens: int) -> list[BlockKey]:
        """Names of the whole blocks among the first `tokens` of ids."""
        count = tokens // BLOCK
        while len(self._keys) < count:
            start = len(self._keys) * BLOCK
            owner = self._before if start + BLOCK <= self._switch else self._owner
            last = self._keys[-1] if self._keys else self._segment.encode()
            # Within a block that the switch cuts, where it cuts is part of what was computed.
            cut = max(self._switch - start, 0) if owner == self._owner != self._before else 0
            told = f"{owner}:{cut}:{','.join(map(str, ids[start : start + BLOCK]))}"
            self._keys.append(hashlib.blake2b(last + told.encode(), digest_size=20).digest())
        return self._keys[:count]
