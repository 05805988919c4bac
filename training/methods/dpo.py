"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): LoRA that learns from pairs of answers.

`-log s(beta [(log p_w - log p0_w) - (log p_l - log p0_l)])`; the reference p0 is the base, asked once before training.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from training.methods.lora import attach, config, restore, weights

__all__ = ["attach", "config", "loss", "restore", "weights"]

BETA = 0.1
REFERENCE, THUMBS, BY_TOKENS = True, False, False


def loss(ratios: Tensor, beta: float) -> Tensor:
    """`[pairs]` in nats; ln 2 where the model is still the base.

    Args:
        ratios: `[pairs, 2]`, log probability less the reference's of the chosen and the rejected answer.
        beta: How strongly it holds on to the reference.
    """
    return -logsigmoid(beta * (ratios[:, 0] - ratios[:, 1]))
