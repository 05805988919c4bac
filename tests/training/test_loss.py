import pytest
import torch
from torch import nn

from training import loss
from training.loss import frozen_head_loss


@pytest.fixture
def head() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(8, 50, bias=False).requires_grad_(False)


@pytest.mark.parametrize("piece", [3, 10, 256])
def test_loss_and_gradient_equal_those_of_whole_logits(
    head: nn.Linear, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "_PIECE", piece)
    states, targets = torch.randn(10, 8, requires_grad=True), torch.arange(10) * 4
    (0.25 * frozen_head_loss(states, targets, head)).backward()
    gradient, states.grad = states.grad, None
    expected = nn.functional.cross_entropy(head(states), targets, reduction="sum")
    (0.25 * expected).backward()
    torch.testing.assert_close(frozen_head_loss(states, targets, head), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, states.grad, rtol=1e-5, atol=1e-6)


def test_the_loss_equals_a_calculation_by_hand(head: nn.Linear) -> None:
    with torch.no_grad():
        head.weight.zero_()
        head.weight[7, 0] = 2.0
    states = torch.tensor([[1.0] + [0.0] * 7])
    expected = torch.log(torch.tensor(49 + 2.718281828**2)) - 2.0
    assert frozen_head_loss(states, torch.tensor([7]), head).item() == pytest.approx(expected.item(), abs=1e-5)


def test_without_gradients_none_are_computed(head: nn.Linear) -> None:
    with torch.no_grad():
        assert not frozen_head_loss(torch.randn(4, 8), torch.arange(4), head).requires_grad


def test_the_logits_of_all_tokens_never_exist_at_once() -> None:
    """unsloth#1147: memory ran out over logits that were kept."""
    seen: list[int] = []

    def head(states: torch.Tensor) -> torch.Tensor:
        seen.append(len(states))
        return states @ torch.ones(8, 30)

    with torch.no_grad():
        frozen_head_loss(torch.randn(1000, 8), torch.zeros(1000, dtype=torch.long), head)
    assert sum(seen) == 1000 and max(seen) <= 256


def test_half_precision_states_are_summed_in_float32(head: nn.Linear) -> None:
    states = torch.randn(4, 8, dtype=torch.bfloat16, requires_grad=True)
    total = frozen_head_loss(states, torch.arange(4), head.bfloat16())
    total.backward()
    assert total.dtype == torch.float32
    assert states.grad is not None and states.grad.dtype == torch.bfloat16
