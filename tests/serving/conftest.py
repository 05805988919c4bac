"""Adapters for the tiny base, sealed as training seals them, with random weights that are loud enough to be heard."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import serving.engine
from moatelier.contracts import TrainSpec
from modalities.bundle import bundle_folder, seal
from modalities.text.config import lora_targets
from modalities.text.model import TextBase, load_base
from serving.engine import TextEngine

SYSTEM = "Name the category of the message."
Seal = Callable[..., Path]
Stopping = Callable[[tuple[int, ...]], TextEngine]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads on two busy cores wait for each other most of the time."""
    monkeypatch.setenv("MOATELIER_THREADS", "1")


@pytest.fixture
def turned_up(tiny: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny base with its layers turned up: as it is drawn it only repeats its last token, whatever the prompt."""

    def load(base_id: str, precision: Any = "auto") -> TextBase:
        base = load_base(base_id, precision)
        for name, weight in base.model.named_parameters():
            if name.endswith("_proj.weight"):
                weight.mul_(10)
        return base

    monkeypatch.setattr("serving.engine.load_base", load)
    return tiny


@pytest.fixture
def engine(turned_up: str) -> TextEngine:
    """An engine in float32 with the base turned up."""
    return TextEngine(turned_up, "fp32")


@pytest.fixture
def stopping(turned_up: str, monkeypatch: pytest.MonkeyPatch) -> Stopping:
    """Makes an engine whose base stops at other tokens."""
    load = serving.engine.load_base

    def make(stop_ids: tuple[int, ...]) -> TextEngine:
        monkeypatch.setattr("serving.engine.load_base", lambda *told: replace(load(*told), stop_ids=stop_ids))
        return TextEngine(turned_up, "fp32")

    return make


@pytest.fixture
def sealed(tiny: str, tmp_path: Path) -> Seal:
    """Seals a random adapter of the tiny base: `sealed("name", seed=1)`; returns the bundle's folder."""
    return partial(seal_adapter, tiny, tmp_path)


def seal_adapter(
    base_id: str,
    scratch: Path,
    suffix: str,
    *,
    seed: int = 0,
    scale: float = 0.5,
    layers: tuple[int, ...] = (4, 5),
    lora: Mapping[str, Any] = MappingProxyType({}),
    change: Callable[[dict[str, bytes]], None] = lambda files: None,
    **fields: Any,
) -> Path:
    """Seal a LoRA whose weights are normal with deviation `scale`.

    `lora` goes to PEFT's configuration; `change` may spoil the files before they are sealed.
    """
    base = load_base(base_id, "fp32")
    targets = list(lora_targets(base.config.model_type))
    fields_of_peft = {"r": 4, "lora_alpha": 8, "target_modules": targets, "task_type": "CAUSAL_LM"} | dict(lora)
    config = LoraConfig(layers_to_transform=list(layers), **fields_of_peft)
    model = get_peft_model(base.model, config)
    randomness = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=randomness) * scale
    model.save_pretrained(scratch / suffix)
    names = ("adapter_model.safetensors", "adapter_config.json")
    files = {name: (scratch / suffix / name).read_bytes() for name in names}
    change(files)
    manifest: dict[str, Any] = {
        "base": base_id,
        "base_digest": base.digest,
        "modality": "text",
        "kind": "classification",
        "suffix": suffix,
        "system": SYSTEM,
        "template_digest": base.template_digest,
        "stop_ids": base.stop_ids,
        "labels": ("parcel", "refund"),
        "first_layer": min(layers),
        "dataset": "0" * 64,
        "licence": "Apache-2.0",
        "spec": TrainSpec(method="lora", base=base_id, dataset="0" * 64, suffix=suffix, seed=seed),
        "versions": {"torch": "0"},
    }
    return bundle_folder(seal(files, **(manifest | fields)))
