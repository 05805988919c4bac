"""Optimisers by name: each learns, and each goes on after a stop as if nothing had been."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from moatelier.contracts import TrainResult, TrainSpec
from moatelier.errors import Cancelled
from moatelier.job import Job
from tests.training.rows import dataset, rows, spec
from tests.training.test_run import StopAt
from training.optimizers import Lion, Several, make
from training.run import work

NAMES = get_args(TrainSpec.model_fields["optimizer"].annotation)
RATES = {"sgd": 0.3, "adagrad": 0.05, "rmsprop": 0.01, "adadelta": 3.0, "adafactor": 0.05, "lion": 0.003}


def train(home: Path, fields: dict[str, object], name: str) -> TrainResult:
    return TrainResult.model_validate(work(fields, Job(home / "jobs" / name, quiet=True)))


@pytest.mark.parametrize("name", NAMES)
def test_each_learns_and_a_stopped_run_ends_with_the_same_bits(home: Path, tiny: str, name: str) -> None:
    card = dataset(rows(18), rows(3, start=18))
    fields = spec(card, optimizer=name, learning_rate=RATES.get(name, 0.01), weight_decay=0.01).model_dump()
    undisturbed = train(home, fields, "undisturbed")
    with pytest.raises(Cancelled):
        work(fields, StopAt(home / "jobs" / "job", "progress", 3))
    resumed = train(home, fields, "job")
    assert resumed.curve == undisturbed.curve and resumed.bundle == undisturbed.bundle
    assert undisturbed.curve[-1][1] < undisturbed.curve[0][1]


def test_an_old_spec_keeps_its_digest() -> None:
    told = spec("0" * 64).model_dump()
    assert not {"optimizer", "cycles", "rounds", "noise", "minimise"} & told.keys()


def test_lion_takes_the_sign_of_a_mean() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -1.0, 2.0]))
    optimizer = Lion([weight], lr=0.1, weight_decay=0.5)
    for gradient in ([1.0, -2.0, 0.0], [-20.0, -2.0, 3.0]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    # Means of 0.01, -0.02 and 0 after the first step: 0.9 * 0.01 - 0.1 * 20 < 0.
    first = [0.95 - 0.1, -0.95 + 0.1, 1.9]
    expected = [first[0] * 0.95 + 0.1, first[1] * 0.95 + 0.1, first[2] * 0.95 - 0.1]
    torch.testing.assert_close(weight.data, torch.tensor(expected))


def test_muon_is_for_matrices_and_adamw_for_the_rest() -> None:
    named = [
        ("model.layers.0.mlp.up_proj.weight", nn.Parameter(torch.randn(6, 4))),
        ("model.layers.0.input_layernorm.weight", nn.Parameter(torch.randn(4))),
        ("model.embed_tokens.weight", nn.Parameter(torch.randn(9, 4))),
    ]
    optimizer = make(spec("0" * 64, optimizer="muon", weight_decay=0.0, learning_rate=0.1), named)
    assert isinstance(optimizer, Several)
    before = named[0][1].detach().clone()
    for _, parameter in named:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    # All singular values of its step are alike.
    values = torch.linalg.svdvals(named[0][1].detach() - before)
    assert float(values.max() / values.min()) < 2
    kinds = [set(optimizer.state[parameter]) for _, parameter in named]
    assert kinds == [{"momentum_buffer"}, *[{"step", "exp_avg", "exp_avg_sq"}] * 2]
