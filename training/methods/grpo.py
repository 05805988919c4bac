"""Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300): LoRA that learns by rewards of its answers.

The advantage of an answer is its reward against those of the other answers to the same prompt, in standard deviations.
Each batch of answers is used for one step, so that the clipped ratio of the paper is always 1 and only its gradient
counts.
"""

import torch
from torch import Tensor

from training.methods.lora import attach, config, restore, weights

__all__ = ["advantages", "attach", "config", "loss", "restore", "weights"]

BETA = 0.0
PENALISES = False
_LEAST = 1e-4


def advantages(rewards: Tensor) -> Tensor:
    """`[prompts, group]` of rewards of that shape; all zero for a prompt whose answers earned the same."""
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, keepdim=True) + _LEAST)


def loss(logprobs: Tensor, reference: Tensor | None, gains: Tensor, owner: Tensor, beta: float) -> Tensor:
    """`[answers]`, each the mean over its tokens.

    Args:
        logprobs: `[tokens]` of all answers.
        reference: `[tokens]`, the base's; needed for `beta` above 0, the weight of the KL estimate
            `p0 / p - log(p0 / p) - 1`; it too is weighed by the ratio, which makes its gradient the KL's own
            (DeepSeek-AI 2025, arXiv 2512.02556).
        gains: `[answers]`, the advantages.
        owner: `[tokens]`, to which answer a token belongs.
        beta: Weight of the KL term.
    """
    losses = -gains[owner]
    if beta and reference is not None:
        ratio = reference - logprobs
        losses = losses + beta * (torch.exp(ratio) - ratio - 1)
    losses = torch.exp(logprobs - logprobs.detach()) * losses
    lengths = torch.bincount(owner, minlength=len(gains))
    return losses.new_zeros(len(gains)).index_add(0, owner, losses) / lengths
