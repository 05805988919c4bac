"""Half Fine-Tuning: each round trains another random half of the weights (Hui et al. 2024, arXiv 2404.18466).

In each block two of query, key, value and output are trained; of the three feed-forward matrices two in a random half
of the blocks and one in the others; and half of all norms. Embeddings and head are trained where the whole model is
tuned. The rest is frozen for the round, bit by bit. Less is forgotten of what the model knew, and less is computed.
"""

import random
from collections.abc import Sequence
from typing import Any

from moatelier.contracts import TrainSpec
from training.methods import full
from training.methods.full import computing, restore, sealed, tuned, weights

__all__ = ["attach", "begin", "chosen", "computing", "config", "restore", "sealed", "tuned", "weights"]

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


def attach(model: Any, spec: TrainSpec, first_layer: int) -> Any:
    """As `full.attach`, of which the first round's half is trainable."""
    adapted = full.attach(model, spec, first_layer)
    adapted.half_shares = [_share(adapted, spec.seed, number) for number in range(spec.rounds)]
    begin(adapted, spec.seed, 0)
    return adapted


def begin(model: Any, seed: int, number: int) -> None:
    """Let the half of a round be trained, and nothing else."""
    half = chosen(model.whole, seed, number)
    for name, parameter in tuned(model).items():
        parameter.requires_grad_(name in half)


def chosen(names: Sequence[str], seed: int, number: int) -> set[str]:
    """Which of these tensors a round trains: a function of seed and number alone.

    Args:
        names: Of the model's tensors.
        seed: The run's.
        number: Of the round, from 0.
    """
    chance = random.Random(f"{seed}/{number}")
    blocks = sorted({_block(name) for name in names} - {None})
    more = set(chance.sample(blocks, len(blocks) // 2))
    modules: set[tuple[int | None, str]] = set()
    for block in blocks:
        picked = chance.sample(_ATTENTION, 2) + chance.sample(_FEED_FORWARD, 2 if block in more else 1)
        modules |= {(block, module) for module in picked}
    norms = sorted(name for name in names if _norm(name))
    half = set(chance.sample(norms, len(norms) // 2))
    for name in names:
        module = next((module for module in _ATTENTION + _FEED_FORWARD if module in name), "")
        if not _norm(name) and (not module or (_block(name), module) in modules):
            half.add(name)
    return half


def config(model: Any, base: str) -> bytes:
    """`adapter_config.json`, with the share of the weights that each round trains."""
    return full.described("hft", model, base, trained_shares=model.half_shares)


def _share(model: Any, seed: int, number: int) -> float:
    sizes = {name: parameter.numel() for name, parameter in tuned(model).items()}
    return round(sum(sizes[name] for name in chosen(model.whole, seed, number)) / sum(sizes.values()), 4)


def _block(name: str) -> Any:
    return int(name.split(".layers.")[1].split(".")[0]) if ".layers." in name else None


def _norm(name: str) -> bool:
    return "norm" in name
