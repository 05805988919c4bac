"""Losses that go wrong at a step, until the training has gone back so many times."""

import math
from collections.abc import Sequence

import pytest
import torch

from training.loop import Loop


def plant(monkeypatch: pytest.MonkeyPatch, *, at: int, times: int = 1, how: str = "loss") -> None:
    """At step `at` the loss, its gradient or the dev loss after it is not finite, `times` times."""
    train_on, mean_loss = Loop._train_on, Loop._mean_loss

    def spoiled(loop: Loop, step: int) -> bool:
        return step == at and loop.state.returns < times

    def training(loop: Loop, rows: Sequence[int]) -> tuple[float, int]:
        if how == "dev" or not spoiled(loop, loop.state.step + 1):
            return train_on(loop, rows)
        objective = loop._objective
        honest, some = objective.loss, next(p for p in objective.model.parameters() if p.requires_grad)

        def loss(piece: Sequence[int]) -> torch.Tensor:
            # The square root of 0 is 0 and its slope is infinite.
            return honest(piece) * math.nan if how == "loss" else honest(piece) + (some.sum() * 0).sqrt()

        objective.loss = loss  # type: ignore[method-assign]
        try:
            return train_on(loop, rows)
        finally:
            del objective.loss

    def evaluating(loop: Loop, rows: Sequence[int]) -> float:
        loss = mean_loss(loop, rows)
        return math.nan if how == "dev" and spoiled(loop, loop.state.step) else loss

    monkeypatch.setattr(Loop, "_train_on", training)
    monkeypatch.setattr(Loop, "_mean_loss", evaluating)
