"""A training loop as anybody would write it, in float32: what the fast loop's loss is compared with.

PEFT's model, whole rows padded on the right, all layers forward, the head on every position: nothing is cached, packed,
fused or left out. It takes the fast loop's batches, learning rates and first weights.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from moatelier.contracts import TrainSpec
from modalities.text.config import lora_targets
from modalities.text.model import load_base
from training import text
from training.batches import Example, epoch_batches, steps_per_epoch
from training.methods import lora


def curve(spec: TrainSpec, rows: Sequence[dict[str, object]], steps: int) -> list[float]:
    """Mean loss a trained token of each step.

    Args:
        spec: Its schedule is cosine.
        rows: Of the training split, as the text modality writes them.
        steps: How many.
    """
    base = load_base(spec.base, "fp32")
    examples = text.encode(base, "train", list(rows))
    first = base.first_layer_default if spec.layers == "top_third" else 0
    model = lora.adapt(  # without the fused product
        base.model,
        spec,
        list(lora_targets(base.model.config.model_type)),
        layers_to_transform=list(range(first, base.config.layers)),
        layers_pattern="layers",
        task_type="CAUSAL_LM",
    ).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)
    each = steps_per_epoch(len(examples), spec.batch_rows)
    whole = max(1, math.ceil(spec.epochs * each))
    warm, told = round(spec.warmup_ratio * whole), []
    for step in range(steps):
        epoch, at = divmod(step, each)
        batch = epoch_batches([len(example.ids) for example in examples], spec.batch_rows, spec.seed, epoch)[at]
        for group in optimizer.param_groups:
            group["lr"] = spec.learning_rate * _share(step, warm, whole)
        loss = _loss(model, [examples[row] for row in batch], base.tokenizer.pad_token_id)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, spec.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        told.append(float(loss.detach()))
    return told


def _share(step: int, warm: int, whole: int) -> float:
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 - math.cos(math.pi * max(0.0, (whole - step) / max(1, whole - warm))))


def _loss(model: torch.nn.Module, examples: Sequence[Example], pad: int) -> Tensor:
    width = max(len(example.ids) for example in examples)
    ids = torch.tensor([[*example.ids, *[pad] * (width - len(example.ids))] for example in examples])
    mask = torch.tensor([[1] * len(example.ids) + [0] * (width - len(example.ids)) for example in examples])
    targets = torch.tensor(
        [
            [token if learn else -100 for token, learn in zip(example.ids, example.trained, strict=True)]
            + [-100] * (width - len(example.ids))
            for example in examples
        ]
    )
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1).float(), targets[:, 1:].flatten(), ignore_index=-100)
