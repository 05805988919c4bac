"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740): LoRA that learns by rewards of its answers.

The advantage of an answer is its reward less the mean of the other answers to the same prompt; a whole answer is one
action. With `beta` above 0 the KL to the base is taken off the reward.
"""

import torch
from torch import Tensor

from training.methods.lora import attach, config, restore, weights

__all__ = ["advantages", "attach", "config", "loss", "restore", "weights"]

BETA = 0.05
PENALISES = True


def advantages(rewards: Tensor) -> Tensor:
    """`[prompts, group]` of rewards of that shape; all zero for a prompt whose answers earned the same."""
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


def loss(logprobs: Tensor, reference: Tensor | None, gains: Tensor, owner: Tensor, beta: float) -> Tensor:
    """`[answers]`; arguments as for `grpo.loss`, but that the reference has had its say in the rewards."""
    sums = logprobs.new_zeros(len(gains)).index_add(0, owner, logprobs)
    return -torch.exp(sums - sums.detach()) * gains
