"""Whether what is kept for the way back will fit into memory, asked before the first step.

Measured, not derived: one short row goes forward and what autograd keeps of it is counted. The bytes grow with the
tokens, so that a row says what a micro-batch will take; attention is kept as a matrix only for rows of up to 512 tokens
(`modalities.text.packed`), where it is at most about a quarter of the rest.
"""

import ctypes
import os
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from moatelier.job import Job
from moatelier.memory import available_bytes
from moatelier.settings import settings
from training.objective import Objective
from training.recovery import random_state, restore_random

_SHARE = 0.8
"""Of the free memory; the rest is for others."""
_HOLES = 1.3
"""What the process grows by for each byte that is kept: freed memory lies between what is kept (docs/log.md)."""
_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of glibc's mallopt; once set it no longer grows by itself."""
_KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_KEPT_KERNELS = 128
"""A micro-batch needs fewer, and nearly each has a shape of its own."""
_MEASURED = 2048
"""Most tokens of a row that is sent forward to be measured: what a longer one makes must not be kept even once."""
_STEP = 3
"""Gradient and two moments of the optimiser, for each byte that is trained."""


def keep_few_kernels() -> None:
    """Have oneDNN and what torch puts around it keep few of the kernels that they make for each shape of a product.

    By default they keep 1,024 each, about a gigabyte in the end. Has an effect before the first product.
    """
    for name in _KERNELS:
        os.environ.setdefault(name, str(_KEPT_KERNELS))


def kept_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """What autograd keeps of a forward pass besides the model's parameters. What the pass draws is drawn again."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    random = random_state()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    restore_random(random)
    return sum(kept.values())


def decide(objective: Objective, loss: Callable[[list[int]], Tensor], job: Job) -> bool:
    """Whether activations have to be computed twice, since those of the largest micro-batch would not fit.

    Args:
        objective: Ready for its first step.
        loss: Of rows; the shortest one goes forward once, unless even that is so long that the answer is yes.
        job: Told of it in an event.
    """
    sizes, model = objective.sizes, objective.model
    row = min(range(len(sizes)), key=lambda row: sizes[row])
    if sizes[row] > _MEASURED and not torch.cuda.is_available():
        _give_back_at_once()
        job.emit("memory", 0, recompute=True, shortest=sizes[row])
        return True
    model.train()
    activations = kept_bytes(model, lambda: loss([row])) / sizes[row] * max(objective.micro, *sizes)
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    needed = _HOLES * activations + _STEP * trained
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else available_bytes()
    bound = _SHARE * free
    if not torch.cuda.is_available():
        bound = min(bound, settings().training_memory_gb * 1e9)
    twice: bool = needed > bound
    if twice:
        _give_back_at_once()
    told = {"activations_gb": activations, "needed_gb": needed, "bound_gb": bound}
    job.emit("memory", 0, recompute=twice, **{name: round(count / 1e9, 6) for name, count in told.items()})
    return twice


def _give_back_at_once() -> None:
    """Have the C library return large pieces to the system when they are freed; they take longer to get then."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, 2**20)
