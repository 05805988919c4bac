"""MeZO (arXiv 2305.17333): forward passes alone, in the memory of inference."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from moatelier.errors import InvalidRequest
from tests.training.rows import spec
from tests.training.stepped import Towers, alone
from training.slopes import Slopes

ROWS = list(range(12))


def slopes(made: Towers, **changes: object) -> Slopes:
    told = spec("0" * 64, method="mezo", **changes)
    return Slopes(told, made, alone(), lambda _: told.learning_rate, 10)


def test_moving_there_and_back_is_exact() -> None:
    made = Towers()
    stepper = slopes(made, noise=0.01)
    grids = stepper.align()
    before = made.weights()
    for number in range(20):
        stepper.move(0.01, number, grids)
        moved = made.weights()
        stepper.move(0.01, number, grids, times=-2)
        stepper.move(0.01, number, grids)
        assert all(torch.equal(weight, before[name]) for name, weight in made.weights().items())
        assert not torch.equal(moved["0.weight"], before["0.weight"])
    assert stepper.align() == grids  # what is on its grid stays as it is
    assert all(torch.equal(weight, before[name]) for name, weight in made.weights().items())
    for name, weight in Towers().weights().items():  # and the grid is no coarser than a float of the largest weight
        torch.testing.assert_close(before[name], weight, rtol=0, atol=float(weight.abs().max()) * 2**-21)


def test_the_slope_is_the_gradients() -> None:
    made = Towers()
    stepper = slopes(made, noise=1e-3, learning_rate=1.0)
    before = made.weights()
    (made.loss(ROWS) / 12).backward()
    gradients = {name: p.grad for name, p in made.model.named_parameters() if p.grad is not None}
    stepper.move(1.0, 7, stepper.align())
    direction = {name: weight - before[name] for name, weight in made.weights().items()}
    slope = sum(float((direction[name] * gradients[name]).sum()) for name in gradients)
    made.restore(before)
    stepper.step(ROWS, 7)
    for name, weight in made.weights().items():
        torch.testing.assert_close(weight, before[name] - slope * direction[name], rtol=0.02, atol=1e-3)


@pytest.mark.parametrize(("minimise", "rate", "noise"), [("loss", 0.02, 0.02), ("token_errors", 0.1, 0.2)])
def test_it_learns_from_figures_with_and_without_a_gradient(minimise: str, rate: float, noise: float) -> None:
    made = Towers()
    before = float(made.token_errors(ROWS))
    stepper = slopes(made, minimise=minimise, learning_rate=rate, noise=noise)
    for number in range(400):
        stepper.step(ROWS, number)
    assert float(made.token_errors(ROWS)) < 0.6 * before
    assert all(parameter.grad is None for parameter in made.model.parameters())


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_look_that_fails_leaves_the_weights_as_they_were(fails_at: int) -> None:
    made, looks = Towers(), []

    def loss(rows: Sequence[int]) -> torch.Tensor:
        looks.append(rows)
        if len(looks) == fails_at:
            raise MemoryError
        return Towers.loss(made, rows)

    made.loss = loss  # type: ignore[method-assign]
    stepper = slopes(made)
    stepper.align()
    before = made.weights()
    with pytest.raises(MemoryError):
        stepper.step(ROWS, 0)
    assert all(torch.equal(weight, before[name]) for name, weight in made.weights().items())


def test_a_figure_that_is_not_there_is_refused() -> None:
    class Blind(Towers):
        token_errors = None  # type: ignore[assignment]

    with pytest.raises(InvalidRequest, match="Use `loss`"):
        slopes(Blind(), minimise="token_errors")


def test_it_takes_the_memory_of_inference(tmp_path: Path) -> None:
    made = Towers(count=64, width=512, depth=6)
    size = sum(parameter.nbytes for parameter in made.model.parameters())
    stepper = slopes(made, noise=1e-3)

    def infer() -> None:
        with torch.no_grad():
            made.loss(list(range(64)))

    inference = _peak(infer, tmp_path)
    assert size + _peak(lambda: stepper.step(list(range(64)), 0), tmp_path) <= 1.1 * (size + inference)
    assert _peak(lambda: made.loss(list(range(64))).backward(), tmp_path) > size  # what it is spared


def _peak(run: Callable[[], object], folder: Path) -> int:
    """Most bytes that torch held at once during a call, beyond what was there."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        run()
    told.export_chrome_trace(str(folder / "trace.json"))
    held = most = 0
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most
