"""Adapters of every method for text, sealed as training seals them, stirred instead of trained."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from moatelier.contracts import TrainSpec
from modalities.bundle import CONFIG, WEIGHTS, bundle_folder, seal
from modalities.text.model import TextBase, load_base
from training import methods

FAMILY = ("rslora", "dora", "pissa", "adalora", "vera", "ia3", "lora_fa", "dylora", "qlora")


def attached(method: str, base: TextBase, first_layer: int, **changes: Any) -> tuple[Any, Any]:
    """The method's module, and the base's model with its fresh adapters."""
    fields = {"base": base.entry_id, "dataset": "0" * 64, "suffix": method, "rank": 4, "alpha": 8.0, **changes}
    spec = TrainSpec(method=method, **fields)
    module = methods.load(spec, "text")
    return module, module.attach(base.model, spec, first_layer)


def stir(model: Any, seed: int = 1, scale: float = 0.1) -> None:
    """Change whatever is tuned, as training would."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=chance) * scale)


def allocate(module: Any, model: Any, steps: int = 3) -> None:
    """Three steps with gradients of chance, for methods that do something after each."""
    chance = torch.Generator().manual_seed(2)
    for step in range(1, steps + 1):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=chance)
        module.after_step(model, step, steps)


def seal_method(method: str, *, first_layer: int = 4, seed: int = 1, scale: float = 0.1, **changes: Any) -> Path:
    """Seal an adapter of the tiny base; returns the bundle's folder."""
    base = load_base("tiny", "fp32")
    module, model = attached(method, base, first_layer, **changes)
    stir(model, seed, scale)
    if hasattr(module, "after_step"):
        allocate(module, model)
    tensors = module.sealed(model, torch.float32) if hasattr(module, "sealed") else module.weights(model)
    files = {CONFIG: module.config(model, "tiny"), WEIGHTS: bytes(save(tensors, metadata={"format": "pt"}))}
    spec = TrainSpec(method=method, base="tiny", dataset="0" * 64, suffix=method, seed=seed)
    manifest: dict[str, Any] = {
        "base": "tiny",
        "base_digest": base.digest,
        "modality": "text",
        "kind": "classification",
        "suffix": method,
        "system": "Name the category of the message.",
        "template_digest": base.template_digest,
        "stop_ids": base.stop_ids,
        "labels": ("parcel", "refund"),
        "first_layer": first_layer,
        "dataset": "0" * 64,
        "licence": "Apache-2.0",
        "spec": spec,
        "versions": {"torch": "0"},
    }
    return bundle_folder(seal(files, **manifest))
