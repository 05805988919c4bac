"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306): LoRA by thumbs up and down.

With `r = log p - log p0` of an answer and the drift `z`, the mean of r over answers that belong to other prompts,
never below 0: a good answer's loss is `1 - s(beta (r - z))`, a bad one's `1 - s(beta (z - r))`. Thumbs of which there
are fewer weigh more, so that both kinds weigh alike in all (the paper's lambdas).
"""

import torch
from torch import Tensor

from training.methods.lora import attach, config, restore, weights

__all__ = ["attach", "config", "loss", "restore", "weights"]

BETA = 0.1
REFERENCE, THUMBS, BY_TOKENS = True, True, False


def loss(ratios: Tensor, good: Tensor, drift: Tensor, beta: float) -> Tensor:
    """`[answers]`, between 0 and 1.

    Args:
        ratios: `[answers]`, log probability less the reference's.
        good: `[answers]` of bool.
        drift: A scalar without a gradient.
        beta: How strongly it holds on to the reference.
    """
    gains = ratios - drift
    return 1 - torch.sigmoid(beta * torch.where(good, gains, -gains))
