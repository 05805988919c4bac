"""A LoRA for each row of a batch, inside a model whose layers know nothing of it: its forward pass stays its own.

What `serving.lora` does for tokens, for rows of several positions: the adapters of a pass are stacked, each product
gets one dense `x A^T` with the rows of all of them, a mask that keeps each row's own, and one dense `B^T`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from serving.lora import LoraWeights, Stack

KEPT_STACKS = 8


class RowLora:
    """The adapters of what runs now. Not for several threads.

    Args:
        model: Gets a hook on each layer.
        names: Of linear layers within it; adapters call them the same, as sites of layer 0.
    """

    def __init__(self, model: Any, names: Iterable[str]) -> None:
        self._stack: Stack | None = None
        self._owners: Tensor | None = None
        self._masks: dict[tuple[int, ...], Tensor] = {}
        self._stacks: dict[tuple[str, ...], Stack] = {}
        for name in names:
            model.get_submodule(name).register_forward_hook(partial(self._add, name))

    @contextmanager
    def acting(self, rows: Sequence[tuple[str, LoraWeights] | None]) -> Iterator[None]:
        """Let adapters act on what runs within, whose batches have these rows.

        Where all rows have one adapter in common, batches may have any number of them.

        Args:
            rows: Each row's adapter, with a digest that names it; None is the base.
        """
        present = dict(row for row in rows if row is not None)
        if present:
            digests = sorted(present)
            self._stack = self._stacked(digests, present)
            if len(present) > 1 or None in rows:
                numbers = {digest: number for number, digest in enumerate(digests)}
                self._owners = torch.tensor([-1 if row is None else numbers[row[0]] for row in rows])
        try:
            yield
        finally:
            self._stack = self._owners = None
            self._masks.clear()

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows."""
        if self._owners is not None:
            self._owners = self._owners[rows.to(self._owners.device)]
            self._masks.clear()

    def forget(self, digest: str) -> None:
        """Drop what was made of an adapter's weights."""
        self._stacks = {present: stack for present, stack in self._stacks.items() if digest not in present}

    def _stacked(self, digests: Sequence[str], weights: dict[str, LoraWeights]) -> Stack:
        present = tuple(digests)
        if present not in self._stacks:
            while len(self._stacks) >= KEPT_STACKS:
                del self._stacks[next(iter(self._stacks))]
            self._stacks[present] = Stack([weights[digest] for digest in digests])
        return self._stacks[present]

    def _add(self, name: str, layer: Any, inputs: tuple[Tensor, ...], product: Tensor) -> Tensor | None:
        part = self._stack.parts.get((0, name)) if self._stack is not None else None
        if part is None:
            return None
        a, b, columns = part
        low = inputs[0] @ a
        if self._owners is not None:
            low = low * self._mask(columns, low)
        return torch.addmm(product.flatten(0, -2), low.flatten(0, -2), b).view(product.shape)

    def _mask(self, columns: tuple[int, ...], low: Tensor) -> Tensor:
        """`[rows, 1, ranks]`: 1 where a rank belongs to the row's adapter."""
        if columns not in self._masks:
            assert self._owners is not None
            own = self._owners[:, None] == torch.tensor(columns)
            self._masks[columns] = own[:, None].to(low.device, low.dtype)
        return self._masks[columns]
