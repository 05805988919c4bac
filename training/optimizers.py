"""Optimisers by name: torch's own, Lion, and Muon with AdamW for what it does not take."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adafactor, Adagrad, Adam, AdamW, Muon, Optimizer, RMSprop

from moatelier.contracts import TrainSpec

Named = Sequence[tuple[str, nn.Parameter]]
"""Parameters with their names in the model."""
_TABLES = ("embed", "lm_head")
"""Parts of the names of tables with a row a token; Muon is for weights that states pass through."""


def make(spec: TrainSpec, named: Named) -> Optimizer:
    """The spec's optimiser over these parameters. SGD is plain: no momentum."""
    if spec.optimizer == "muon":
        return _muon(spec, named)
    return _MAKERS[spec.optimizer](
        [parameter for _, parameter in named], lr=spec.learning_rate, weight_decay=spec.weight_decay
    )


class Lion(Optimizer):
    """The sign of a mean of gradients (Chen et al. 2023, arXiv 2302.06675); wants a fifth of AdamW's rate."""

    def __init__(self, parameters: Any, lr: float, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.99)):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no loss to return
        """Take a step by the gradients that are there."""
        for group in self.param_groups:
            rate, decay, (fast, slow) = group["lr"], group["weight_decay"], group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["mean"] = torch.zeros_like(parameter)
                direction = state["mean"].lerp(parameter.grad, 1 - fast).sign_()
                parameter.mul_(1 - rate * decay).add_(direction, alpha=-rate)
                state["mean"].lerp_(parameter.grad, 1 - slow)


class Several(Optimizer):
    """Optimisers that step together, each over parameters of its own.

    Args:
        parts: At least one.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self._parts = parts
        self.defaults: dict[str, Any] = {}
        self._warned_capturable_if_run_uncaptured = True

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]  # a field in torch
        """Those of all parts."""
        return [group for part in self._parts for group in part.param_groups]

    @property
    def state(self) -> Mapping[Tensor, Any]:  # type: ignore[override]  # a field in torch
        """Of all parts, to look at."""
        return dict(chain.from_iterable(part.state.items() for part in self._parts))

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no loss to return
        """One step of each."""
        for part in self._parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Each part's."""
        return {str(number): part.state_dict() for number, part in enumerate(self._parts)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Give each part its own back."""
        for number, part in enumerate(self._parts):
            part.load_state_dict(state_dict[str(number)])


def forget(optimizer: Optimizer) -> None:
    """Let an optimiser begin anew, its groups as they are."""
    parts = optimizer._parts if isinstance(optimizer, Several) else (optimizer,)
    for part in parts:
        part.state.clear()


def _muon(spec: TrainSpec, named: Named) -> Optimizer:
    """Muon for matrices, with AdamW's rate for both (arXiv 2502.16982), and AdamW for the rest."""
    matrices = [p for name, p in named if p.ndim == 2 and not any(table in name for table in _TABLES)]
    chosen = {id(parameter) for parameter in matrices}
    rest = [parameter for _, parameter in named if id(parameter) not in chosen]
    fields: dict[str, Any] = {"lr": spec.learning_rate, "weight_decay": spec.weight_decay}
    parts: list[Optimizer] = []
    if matrices:
        parts.append(Muon(matrices, adjust_lr_fn="match_rms_adamw", **fields))
    if rest:
        parts.append(AdamW(rest, fused=True, **fields))
    return Several(parts)


def _fused(kind: Any) -> Callable[..., Optimizer]:
    return lambda parameters, **fields: kind(parameters, fused=True, **fields)


_MAKERS: Mapping[str, Callable[..., Optimizer]] = {
    "sgd": _fused(SGD),
    "adagrad": _fused(Adagrad),
    "rmsprop": RMSprop,
    "adadelta": Adadelta,
    "adam": _fused(Adam),
    "adamw": _fused(AdamW),
    "adafactor": Adafactor,
    "lion": Lion,
}
