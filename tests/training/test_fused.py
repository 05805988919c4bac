"""LOMO (arXiv 2306.09782): plain SGD in which no two gradients exist at once."""

import pytest
import torch

from moatelier.contracts import TrainSpec
from tests.training.rows import spec
from tests.training.stepped import Towers, alone
from training.fused import Fused
from training.stepping import Descent

ROWS = list(range(12))


def stepper(kind: type[Fused | Descent], made: Towers, told: TrainSpec) -> Fused | Descent:
    return kind(told, made, alone(), lambda step: told.learning_rate / (step + 1), 10)


@pytest.mark.parametrize("most", [0.0, 0.05, 100.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_equals_sgd(most: float, decay: float) -> None:
    told = spec("0" * 64, method="lomo", optimizer="sgd", learning_rate=0.2, max_grad_norm=most, weight_decay=decay)
    fused, plain = Towers(), Towers()
    ours, theirs = stepper(Fused, fused, told), stepper(Descent, plain, told)
    for number in range(10):
        assert ours.step(ROWS, number) == pytest.approx(theirs.step(ROWS, number), abs=1e-5)
    for name, weight in plain.weights().items():
        torch.testing.assert_close(fused.weights()[name], weight, rtol=0, atol=1e-5)
    assert not torch.equal(plain.weights()["0.weight"], Towers().weights()["0.weight"])


@pytest.mark.parametrize("most", [0.0, 0.05])
def test_no_more_than_the_largest_gradient_is_alive(most: float) -> None:
    made, alive = Towers(), []
    parameters = list(made.model.parameters())

    def look(_: torch.Tensor) -> None:
        alive.append(sum(p.grad.nbytes for p in parameters if p.grad is not None))

    for parameter in parameters:  # before the stepper's own, so that it sees what that one drops
        parameter.register_post_accumulate_grad_hook(look)
    stepper(Fused, made, spec("0" * 64, method="lomo", max_grad_norm=most)).step(ROWS, 0)
    assert len(alive) == len(parameters) * (2 if most else 1)
    assert max(alive) <= max(parameter.nbytes for parameter in parameters)
    assert all(parameter.grad is None for parameter in parameters)


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    made = Towers()
    made.inputs[3, 2] = float("nan")
    before = made.weights()
    total = stepper(Fused, made, spec("0" * 64, method="lomo")).step(ROWS, 0)
    assert total != total
    assert all(torch.equal(weight, before[name]) for name, weight in made.weights().items())
