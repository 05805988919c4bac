"""Activations computed twice instead of kept: the same bits for less memory, and only where memory needs it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from moatelier.errors import ResourceExhausted
from moatelier.settings import settings
from tests.training.models import tuned
from tests.training.rows import dataset, rows, spec
from tests.training.test_run import events, train
from training import activations
from training.activations import kept_bytes
from training.loss import frozen_head_loss
from training.text import TextObjective


@pytest.fixture
def card(tiny: str) -> str:
    return dataset(rows(30), rows(9, start=30))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("first_layer", [0, 4])
def test_the_gradients_are_the_same_bits(tiny: str, dropout: float, first_layer: int) -> None:
    made = tuned(6, first_layer=first_layer, dropout=dropout)
    made.adapted.train()

    def gradients(twice: bool) -> list[torch.Tensor]:
        made.source.recompute = twice
        torch.manual_seed(7)
        for parameter in made.parameters:
            parameter.grad = None
        inputs = made.source.inputs(range(6))
        torch.autograd.backward(frozen_head_loss(made.source.tuned(inputs), inputs.targets, made.head))
        return [parameter.grad for parameter in made.parameters if parameter.grad is not None]

    kept, twice = gradients(False), gradients(True)
    assert len(kept) == len(twice) == len(made.parameters)
    assert all(torch.equal(left, right) for left, right in zip(kept, twice, strict=True))
    made.source.close()


def test_less_is_kept_and_it_grows_with_the_tokens(tiny: str) -> None:
    made = tuned(8, first_layer=0)
    made.adapted.train()

    def kept(count: int, twice: bool) -> int:
        made.source.recompute = twice
        inputs = made.source.inputs(range(count))
        return kept_bytes(made.adapted, lambda: made.source.tuned(inputs))

    assert kept(8, True) < kept(8, False) / 4
    longest = max(len(example.ids) for example in made.examples)
    one, eight = kept(1, False) / len(made.examples[0].ids), kept(8, False)
    assert eight <= one * 8 * longest, "what a row says of a micro-batch is no less than that takes"
    made.source.close()


def test_asking_draws_nothing(tiny: str) -> None:
    made = tuned(4, dropout=0.5)
    made.adapted.train()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    inputs = made.source.inputs([0])
    assert kept_bytes(made.adapted, lambda: made.source.tuned(inputs)) > 0
    assert torch.equal(torch.rand(3), expected)
    made.source.close()


@pytest.mark.parametrize("method", ["lora", "alora"])
def test_a_training_without_room_for_them_learns_the_same_bits(
    home: Path, card: str, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    fields = spec(card, method=method, dropout=0.1).model_dump()
    roomy = train(home, fields, "roomy")
    monkeypatch.setattr(activations, "available_bytes", lambda: 10_000)
    tight = train(home, fields)
    assert (tight.curve, tight.bundle) == (roomy.curve, roomy.bundle)
    (kept,), (twice,) = events(home, "memory", "roomy"), events(home, "memory")
    assert (kept["body"]["recompute"], twice["body"]["recompute"]) == (False, True)
    assert 0 < kept["body"]["activations_gb"] < kept["body"]["needed_gb"] < kept["body"]["bound_gb"]


def test_a_person_may_bound_it(home: Path, card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOATELIER_TRAINING_MEMORY_GB", "0.001")
    settings.cache_clear()
    train(home, spec(card, epochs=1.0).model_dump())
    (told,) = events(home, "memory")
    assert told["body"]["recompute"] and told["body"]["bound_gb"] == 0.001


def test_it_is_the_last_resort_where_a_single_row_does_not_fit(
    home: Path, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, fits = TextObjective.loss, [True]

    def tight(self: TextObjective, piece: Any) -> torch.Tensor:
        if self.model.training and not (len(piece) == 1 and self.recompute and fits[0]):
            raise MemoryError
        return loss(self, piece)

    monkeypatch.setattr("training.text.decide", lambda *_: False)
    monkeypatch.setattr(TextObjective, "loss", tight)
    result = train(home, spec(card).model_dump())
    assert [setback.recompute for setback in result.setbacks][-1] and result.steps == 10
    assert not any(setback.recompute for setback in result.setbacks[:-1])
    fits[0] = False
    with pytest.raises(ResourceExhausted, match="cannot be cut"):
        train(home, spec(card, seed=1).model_dump(), "other")
