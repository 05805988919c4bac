"""Tiny random vision models as folders, and what reads them."""

import json
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors.torch import save_file

IMAGE = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 1.0}
VIT: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
RESNET = VIT | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}}


def timm_folder(folder: Path, architecture: str = "tf_efficientnet_lite0") -> Path:
    """A random model of timm as the Hub has it, without the batch norms' counters as our pack has none."""
    folder.mkdir(parents=True)
    model = seeded(lambda: timm.create_model(architecture, pretrained=False, num_classes=5))
    state = {name: value.contiguous() for name, value in model.state_dict().items() if "num_batches" not in name}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": architecture, "pretrained_cfg": IMAGE}))
    return folder


def open_clip_folder(folder: Path, model_cfg: dict[str, Any] = VIT) -> Path:
    """A random model of open_clip as the Hub has it."""
    folder.mkdir(parents=True)
    model = seeded(lambda: open_clip.CLIP(**model_cfg))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights(folder))
    told = {"model_cfg": model_cfg, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(told))
    return folder


def weights(folder: Path) -> Path:
    return folder / "open_clip_model.safetensors"


def seeded(make: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def images(count: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
