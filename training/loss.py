"""The loss through a head, with the logits of a few tokens at a time.

Where the head is frozen, all that backward needs is the loss's gradient at the head's input. It is computed piece by
piece on the way forward and the logits are dropped at once: `[tokens, vocabulary]` never exists as a whole.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

_PIECE = 256


class _FrozenHeadLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
        told = hidden.new_empty(len(targets), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets), _PIECE):
            piece = slice(start, start + _PIECE)
            with torch.set_grad_enabled(gradient is not None):
                states = hidden[piece].detach().requires_grad_(gradient is not None)
                logprobs = -cross_entropy(head(states).float(), targets[piece], reduction="none")
                if gradient is not None:  # a token's rests on its own state alone, so the sum's is that of each
                    (gradient[piece],) = torch.autograd.grad(logprobs.sum(), states)
            told[piece] = logprobs.detach()
        ctx.save_for_backward(gradient)
        return told

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grads[0][:, None].to(gradient.dtype) if gradient is not None else None), None, None


def frozen_head_logprobs(hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """The log probability of each token, in nats, for losses that are more than a sum over tokens.

    Args:
        hidden: `[tokens, width]`, the states that predict the targets.
        targets: `[tokens]`, the ids to predict.
        head: From `[n, width]` to logits `[n, vocabulary]`; nothing in it is trained.

    Returns:
        `[tokens]` in float32; its gradient reaches `hidden` only.
    """
    return _FrozenHeadLogprobs.apply(hidden, targets, head)  # type: ignore[no-any-return]  # torch's own


class _FrozenHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets), _PIECE):
            piece = slice(start, start + _PIECE)
            with torch.set_grad_enabled(gradient is not None):
                states = hidden[piece].detach().requires_grad_(gradient is not None)
                logits = head(states)
            loss, slope = _cross_entropy(logits.detach(), targets[piece], gradient is not None)
            if gradient is not None:
                (gradient[piece],) = torch.autograd.grad(logits, states, slope)
            total += loss
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grads[0] if gradient is not None else None), None, None


def _cross_entropy(logits: Tensor, targets: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy summed in float32, and if wanted its gradient: the probabilities, less one at the targets.

    With so many words a pass over the logits is dear, and autograd's takes several more.
    """
    scores = logits.float()
    norm = scores.logsumexp(-1, keepdim=True)
    loss = (norm - scores.gather(-1, targets[:, None])).sum()
    if not wanted:
        return loss, None
    slope = (scores - norm).exp_()
    slope.scatter_add_(-1, targets[:, None], slope.new_full((len(targets), 1), -1.0))
    return loss, slope.to(logits.dtype)


def frozen_head_loss(hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """Cross-entropy summed over tokens, in nats.

    Args:
        hidden: `[tokens, width]`, the states that predict the targets.
        targets: `[tokens]`, the ids to predict.
        head: From `[n, width]` to logits `[n, vocabulary]`; nothing in it is trained.

    Returns:
        A scalar in float32; its gradient reaches `hidden` only.
    """
    return _FrozenHeadLoss.apply(hidden, targets, head)  # type: ignore[no-any-return]  # torch's own


def trained_head_loss(hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """The same with a gradient for the head too; the logits are computed once more on the way back."""
    total = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, len(targets), _PIECE):
        piece = slice(start, start + _PIECE)
        found = checkpoint(_summed, hidden[piece], targets[piece], head, use_reentrant=False, preserve_rng_state=False)
        total = total + found
    return total


def _summed(hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    return cross_entropy(head(hidden).float(), targets, reduction="sum")


def wrong_tokens(hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """How many targets are not the likeliest token, a scalar in float32; it has no gradient."""
    pieces = range(0, len(targets), _PIECE)
    wrong = [(head(hidden[at : at + _PIECE]).argmax(-1) != targets[at : at + _PIECE]).sum() for at in pieces]
    return torch.stack(wrong).sum().float()
