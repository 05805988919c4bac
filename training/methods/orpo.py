"""Odds-ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691): LoRA by pairs of answers, no reference.

A pair's loss is the chosen answer's cross-entropy a token, and `beta` (the paper's lambda) times `-log s` of the log
odds ratio of both answers' mean likelihoods. Pairs weigh as their chosen answers' tokens do in plain tuning, so that
`beta = 0` is plain tuning on the chosen answers.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from training.methods.lora import attach, config, restore, weights

__all__ = ["attach", "config", "loss", "odds", "restore", "weights"]

BETA = 0.1
REFERENCE, THUMBS, BY_TOKENS = False, False, True
_LEAST = 1e-7


def loss(logprobs: Tensor, lengths: Tensor, beta: float) -> Tensor:
    """`[pairs]`, the chosen answer's cross-entropy in nats plus the odds term times its tokens.

    Args:
        logprobs: `[pairs, 2]`, log probability of the chosen and the rejected answer.
        lengths: `[pairs, 2]`, their tokens.
        beta: Weight of the odds term.
    """
    return -logprobs[:, 0] - beta * lengths[:, 0] * odds(logprobs / lengths)


def odds(means: Tensor) -> Tensor:
    """`[pairs]`, log s of the log odds ratio for mean log probabilities a token `[pairs, 2]`."""
    means = means.clamp(max=-_LEAST)  # a certain answer has endless odds
    logits = means - torch.log(-torch.expm1(means))
    return logsigmoid(logits[:, 0] - logits[:, 1])
