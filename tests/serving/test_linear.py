"""The integer kernels against float32."""

from typing import Literal

import pytest
import torch

from moatelier.errors import ModelUnavailable
from serving.linear import WIDE, Dense, Int4, Int8, ServingPrecision, pack, probe_kernel


def weights(out: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(out, width, generator=torch.Generator().manual_seed(seed)) * 0.05


def error(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found - right).norm() / right.norm())


@pytest.mark.parametrize("rows", [1, 4, 37])
@pytest.mark.parametrize("out", [64, 100, 192])
def test_products_are_close_to_those_of_the_full_weights(rows: int, out: int) -> None:
    weight, x, bias = weights(out, 96), weights(rows, 96, 1), torch.ones(out)
    right = x @ weight.T + bias
    assert torch.equal(Dense(weight, bias)(x), torch.nn.functional.linear(x, weight, bias))
    assert error(Int8(weight, bias)(x) - 1, right - 1) < 0.015
    assert error(Int4(weight, bias)(x) - 1, right - 1) < 0.12
    assert Int4(weight, None)(x).dtype == torch.float32 and Int4(weight, None)(x.bfloat16()).dtype == torch.bfloat16


def test_weights_on_a_grid_of_sixteen_lose_only_what_bfloat16_loses() -> None:
    """A base whose file has 4 bits a weight: only scale and zero of each group are rounded."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (64, 4, 32), generator=generator).float()
    codes[..., 0], codes[..., 1] = 0, 15
    scales = torch.rand(64, 4, 1, generator=generator) * 0.01 + 0.001
    weight = (codes * scales - 8 * scales).flatten(1)
    x = torch.randn(9, 128, generator=generator).bfloat16().float()
    assert error(Int4(weight, None)(x), x @ weight.T) < 0.006


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_many_rows_meet_the_same_rounded_weights_as_few(precision: Literal["int8", "int4"]) -> None:
    weight, x, bias = weights(100, 96), weights(WIDE + 4, 96, 1).bfloat16(), torch.ones(100).bfloat16()
    layer = pack(weight, bias, precision, wide=True)
    few = torch.cat([layer(row) for row in x.split(4)])
    assert error(layer(x).float(), few.float()) < 0.005 < error(few.float() - 1, x.float() @ weight.T)
    assert layer.bytes == pack(weight, bias, precision).bytes + 2 * weight.numel()


def test_fewer_bits_take_less_memory() -> None:
    weight = weights(256, 256)
    full, eight, four = (pack(weight, None, precision).bytes for precision in ("fp32", "int8", "int4"))
    assert full / eight > 3.9 and full / four > 6


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("wide", [False, True])
def test_the_weight_is_what_is_multiplied_with(precision: ServingPrecision, wide: bool) -> None:
    layer = pack(weights(100, 96), None, precision, wide)
    x = weights(3, 96, 1).bfloat16().float()
    assert layer.weight.shape == (100, 96)
    assert error(layer(x).float(), x @ layer.weight.float().T) < 0.01


def test_a_shape_without_a_kernel_is_refused() -> None:
    with pytest.raises(ModelUnavailable, match="multiple of 32"):
        pack(weights(64, 40), None, "int4")


def test_a_kernel_that_computes_nonsense_is_found_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    probe_kernel.cache_clear()
    monkeypatch.setattr(Int4, "__call__", lambda self, x: torch.zeros(len(x), 128))
    with pytest.raises(ModelUnavailable, match="off by 100%"):
        pack(weights(64, 64), None, "int4")
    monkeypatch.undo()
    probe_kernel.cache_clear()
    pack(weights(64, 64), None, "int4")


def test_the_kernels_are_for_the_cpu() -> None:
    with pytest.raises(ModelUnavailable, match="bf16 or fp32"):
        probe_kernel.__wrapped__("int8", "meta")
