"""The stacks of adapters that passes ran with last: made once, for as long as the same adapters run together."""

from collections.abc import Sequence
from typing import Any

import torch

from serving.adapters import Loaded
from serving.lora import LowRank, Stack, StackedPass

KEPT = 4


class Stacks:
    """Stacks of loaded adapters whose weights are held."""

    def __init__(self) -> None:
        self._made: dict[tuple[Loaded[Any], ...], Stack] = {}

    def over(self, owners: Sequence[Loaded[Any] | None], device: torch.device) -> StackedPass | None:
        """The adapters of one pass; None where there are none.

        Args:
            owners: Each token's or image's adapter, whose weights are `LowRank`; None is the base.
            device: Where it runs.
        """
        present = tuple(sorted({owner for owner in owners if owner}, key=lambda owner: (owner.digest, id(owner))))
        if not present:
            return None
        numbers: dict[Loaded[Any] | None, int] = {None: -1} | {owner: n for n, owner in enumerate(present)}
        places = torch.tensor([numbers[owner] for owner in owners], device=device)
        return StackedPass(self._stack(present), places)

    def forget(self, loaded: Loaded[Any]) -> None:
        """Drop what was made of an adapter's weights."""
        self._made = {present: stack for present, stack in self._made.items() if loaded not in present}

    def _stack(self, present: tuple[Loaded[Any], ...]) -> Stack:
        if present not in self._made:
            while len(self._made) >= KEPT:
                del self._made[next(iter(self._made))]
            weights: list[LowRank] = [loaded.weights for loaded in present if loaded.weights]
            assert len(weights) == len(present), "an adapter that runs is held"
            self._made[present] = Stack(weights)
        return self._made[present]
