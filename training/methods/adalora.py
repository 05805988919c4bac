"""AdaLoRA: ranks go to the layers that need them (Zhang et al. 2023, arXiv 2303.10512), by PEFT.

`W x + s B (E * A x)` begins with half more ranks than the spec says. By how much each would be missed, smoothed over
steps, the least useful are cut, until their mean over the layers is the spec's; the last third of the steps trains what
is left. A penalty keeps the rows of A and the columns of B orthogonal.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import AdaLoraConfig
from torch import Tensor

from moatelier.contracts import TrainSpec
from training.methods import tuner

_KEPT = ("ipt", "exp_avg_ipt", "exp_avg_unc")
_PENALTY = 0.1


def attach(model: Any, spec: TrainSpec, first_layer: int) -> Any:
    """Put fresh adapters in float32 on all linear layers of the blocks from `first_layer` up; the rest is frozen.

    Args:
        model: A causal model of transformers; it is changed in place.
        spec: Gives the mean rank at the end, alpha, dropout and the seed.
        first_layer: Index of the lowest block that gets adapters.
    """
    made = AdaLoraConfig(
        target_r=spec.rank,
        init_r=max(spec.rank + 1, round(1.5 * spec.rank)),
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        orth_reg_weight=_PENALTY,
        total_step=1,  # known from the first step on
        **tuner.in_blocks(model, first_layer),
    )
    return tuner.wrap(model, spec, made)


def penalty(model: Any) -> Tensor:
    """How far A and B are from orthogonal, weighted: what PEFT adds to a step's mean loss."""
    far = []
    for name, weight in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gram = weight @ weight.T if "lora_A" in name else weight.T @ weight
            far.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
    weight_of_it: float = model.peft_config["default"].orth_reg_weight
    return weight_of_it * torch.stack(far).mean()


def after_step(model: Any, step: int, steps: int) -> None:
    """Judge the ranks by their gradients, which are still there, and cut what the schedule says."""
    told, allocator = model.peft_config["default"], model.base_model.rankallocator
    told.total_step, told.tinit, told.tfinal = steps, steps // 10, steps // 3
    told.deltaT = max(1, steps // 50)
    if step <= steps - told.tfinal and not allocator.exp_avg_ipt:  # runs of one step cut at their first judgement
        allocator.update_ipt(model.base_model.model)
    model.base_model.update_and_allocate(step)


def state(model: Any) -> dict[str, Any]:
    """What a checkpoint keeps besides the weights: what each rank was worth so far, and which are left."""
    allocator = model.base_model.rankallocator
    worth = {kept: dict(getattr(allocator, kept)) for kept in _KEPT}
    return worth | {"pattern": model.peft_config["default"].rank_pattern}


def restore_state(model: Any, state: dict[str, Any]) -> None:
    """Put it back."""
    for kept in _KEPT:
        setattr(model.base_model.rankallocator, kept, dict(state[kept]))
    model.peft_config["default"].rank_pattern = state["pattern"]


def weights(model: Any) -> dict[str, Tensor]:
    """The adapter's tensors on the CPU with all the ranks that training began with."""
    with _with_pattern(model, None):
        return tuner.weights(model)


def restore(model: Any, weights: dict[str, Tensor]) -> None:
    """See `tuner.restore`."""
    with _with_pattern(model, None):
        tuner.restore(model, weights)


def sealed(model: Any, _: torch.dtype) -> dict[str, Tensor]:
    """The tensors with the ranks that are left; all of them where time ran out before the last cut."""
    with _with_pattern(model, _final(model)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*invalid shape")  # a layer may be left with no rank at all
        return tuner.weights(model)


def config(model: Any, base: str) -> bytes:
    """See `tuner.config`; of what `sealed` gives."""
    return tuner.config(model, base, rank_pattern=_final(model))


def _final(model: Any) -> dict[str, list[bool]] | None:
    pattern = model.peft_config["default"].rank_pattern
    if not pattern or model.base_model.rankallocator.exp_avg_ipt:  # judged still, so not yet final
        return None
    return {name.replace(".default", ""): kept for name, kept in pattern.items()}


@contextmanager
def _with_pattern(model: Any, pattern: dict[str, list[bool]] | None) -> Iterator[None]:
    """PEFT cuts tensors by the pattern as it reads and writes them."""
    told = model.peft_config["default"]
    before, told.rank_pattern = told.rank_pattern, pattern
    try:
        yield
    finally:
        told.rank_pattern = before
