"""Adapters with random weights, sealed as training seals them: for speed and memory; what they say is no matter."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save

from moatelier.contracts import TrainSpec
from modalities.bundle import CONFIG, WEIGHTS, seal
from modalities.text.config import lora_targets
from modalities.text.model import TextBase
from training.methods.lora import config as config_bytes


def random_adapter(
    base: TextBase, name: str, seed: int, *, first_layer: int | None = None, rank: int = 16, **lora: Any
) -> str:
    """Seal a LoRA on all linear layers from `first_layer` up; returns the bundle's digest.

    Args:
        base: Loaded; it is left as it was.
        name: The adapter's suffix.
        seed: Of its weights.
        first_layer: The lowest layer that it changes; by default that of the top third.
        rank: Of its matrices.
        lora: Further fields of PEFT's configuration.
    """
    first = base.first_layer_default if first_layer is None else first_layer
    targets = list(lora_targets(base.config.model_type))
    layers = list(range(first, base.config.layers))
    peft = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=targets,
        layers_to_transform=layers,
        layers_pattern="layers",
        task_type="CAUSAL_LM",
        **lora,
    )
    model = get_peft_model(base.model, peft)
    randomness = torch.Generator().manual_seed(seed)
    weights = {
        key: torch.randn(tensor.shape, generator=randomness) * 0.005
        for key, tensor in sorted(get_peft_model_state_dict(model).items())
    }
    files = {WEIGHTS: save(weights, metadata={"format": "pt"}), CONFIG: config_bytes(model, base.entry_id)}
    model.unload()
    return seal(
        files,
        base=base.entry_id,
        base_digest=base.digest,
        modality="text",
        kind="chat",
        suffix=name,
        system="",
        template_digest=base.template_digest,
        stop_ids=base.stop_ids,
        labels=(),
        first_layer=first,
        dataset="0" * 64,
        licence="Apache-2.0",
        spec=TrainSpec(method="lora", base=base.entry_id, dataset="0" * 64, suffix=name, seed=seed, rank=rank),
        versions={"torch": torch.__version__},
    )
