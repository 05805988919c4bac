"""MeZO: full fine-tuning by forward passes alone (Malladi et al. 2023, arXiv 2305.17333).

It takes the memory of inference and no gradient, so that it can follow a figure that has none; and many steps, see
`training.slopes`.
"""

from typing import Any

from training.methods import full
from training.methods.full import attach, computing, restore, sealed, weights

__all__ = ["attach", "computing", "config", "restore", "sealed", "weights"]


def config(model: Any, base: str) -> bytes:
    """`adapter_config.json` in canonical form."""
    return full.described("mezo", model, base)
