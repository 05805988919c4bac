"""DyLoRA: each step trains a random part of the ranks, so that any rank can be deployed (arXiv 2210.07558).

Valipour et al. 2022. A step draws b of 1..rank and computes `W x + (alpha / b) B[:, :b] A[:b] x`; what is put first
matters most, and `truncated` cuts a bundle's adapter down to whatever rank suits.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from moatelier.contracts import TrainSpec
from moatelier.errors import InvalidRequest
from moatelier.ids import canonical_json
from modalities.bundle import CONFIG, WEIGHTS
from training.methods import lora
from training.methods.tuner import config, restore, weights

__all__ = ["after_step", "attach", "config", "restore", "restore_state", "state", "truncated", "weights"]


@dataclass
class _Width:
    """How many ranks the step under way trains."""

    seed: int
    rank: int
    now: int = 0

    def draw(self, step: int) -> None:
        """For the step after that many."""
        self.now = random.Random(f"{self.seed} {step}").randint(1, self.rank)


def attach(model: Any, spec: TrainSpec, first_layer: int) -> Any:
    """As `lora.attach`; while it is trained, the adapters have the rank of the step."""
    adapted = lora.attach(model, spec, first_layer)
    adapted.width = _Width(spec.seed, spec.rank)
    adapted.width.draw(0)
    for layer in lora.adapted_layers(adapted):
        layer.forward = partial(_cut, layer, adapted.width, spec.alpha)
    return adapted


def after_step(model: Any, step: int, steps: int) -> None:
    """Draw the next step's rank."""
    model.width.draw(step)


def state(model: Any) -> dict[str, Any]:
    """What a checkpoint keeps besides the weights."""
    return {"rank": model.width.now}


def restore_state(model: Any, state: dict[str, Any]) -> None:
    """Put it back."""
    model.width.now = state["rank"]


def truncated(files: Mapping[str, bytes], rank: int) -> dict[str, bytes]:
    """A bundle's two files at a lower rank.

    Raises:
        InvalidRequest: The adapter has no such rank.
    """
    told = json.loads(files[CONFIG])
    if not 1 <= rank <= told["r"]:
        raise InvalidRequest(
            f"The adapter cannot be cut to rank {rank}.", where="rank", remedy=f"Use a rank from 1 to {told['r']}."
        )
    cut = {
        name: (tensor[:rank] if "lora_A" in name else tensor[:, :rank]).contiguous()
        for name, tensor in load(files[WEIGHTS]).items()
    }
    return {CONFIG: canonical_json(told | {"r": rank}), WEIGHTS: bytes(save(cut, metadata={"format": "pt"}))}


def _cut(layer: Any, width: _Width, alpha: float, x: Tensor) -> Tensor:
    rank = width.now if layer.training else width.rank
    a, b = layer.lora_A["default"].weight[:rank], layer.lora_B["default"].weight[:, :rank]
    return lora.product(layer, x, a, b, alpha / rank)
