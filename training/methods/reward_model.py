"""A reward model by Bradley and Terry's odds (as in Ouyang et al. 2022, arXiv 2203.02155): LoRA and a head that scores.

A pair's loss is `-log s(r_w - r_l)`; an answer's score r is read off the last layer at the token that ends it.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from training.methods.lora import attach, config, restore, weights

__all__ = ["attach", "config", "loss", "restore", "weights"]


def loss(scores: Tensor) -> Tensor:
    """`[pairs]` in nats, for scores `[pairs, 2]` of the chosen and the rejected answer; ln 2 where they are equal."""
    return -logsigmoid(scores[:, 0] - scores[:, 1])
