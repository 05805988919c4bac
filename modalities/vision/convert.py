"""How the wheel's EfficientNet-Lite0 becomes a folder as timm writes it for the Hub: safetensors and a config.json."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from moatelier.errors import IntegrityError, ModelUnavailable, ResourceExhausted

LITE0 = "tf_efficientnet_lite0"
"""timm's name. The weights come from TensorFlow: they want its padding (`tf_`), which pads more at the end."""
_IMAGE = {
    "input_size": [3, 224, 224],
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "mean": [127 / 255] * 3,  # TensorFlow's own: (value - 127) / 128
    "std": [128 / 255] * 3,
}
_COUNTER = "num_batches_tracked"
"""What batch norms count while they are trained; of no use to a frozen one."""


def timm_efficientnet_lite0(source: Path, to: Path, context: int | None) -> None:
    """Convert the one `.pth` file of EfficientNet-Lite0, whose tensors stand in the same order as timm's.

    Args:
        source: Folder with the `.pth` file.
        to: Empty folder for `config.json` and `model.safetensors`.
        context: Of no meaning for images.

    Raises:
        ModelUnavailable: There is no such file.
        IntegrityError: It does not hold this model.
        ResourceExhausted: The disk is full.
    """
    file = next(source.glob("*.pth"), None)
    if file is None:
        raise ModelUnavailable("There is no .pth file.", where=str(source))
    model = timm.create_model(LITE0, pretrained=False)
    weights = rename(_read(file), model.state_dict(), file)
    try:
        save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    except Exception as error:  # safetensors hides the operating system's error in one of its own
        raise ResourceExhausted(
            f"The converted model could not be written: {error}",
            where=str(to),
            remedy="Free some disk space or let MOATELIER_CACHE name another folder.",
        ) from error
    config = {"architecture": LITE0, "num_classes": 1000, "num_features": 1280, "pretrained_cfg": _IMAGE}
    (to / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def rename(found: dict[str, Tensor], expected: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Give each tensor the name of the one at its place among the expected; counters of batch norms are left out.

    Raises:
        IntegrityError: Their numbers differ, or a shape does.
    """
    names = [name for name in expected if not name.endswith(_COUNTER)]
    tensors = [(name, tensor) for name, tensor in found.items() if not name.endswith(_COUNTER)]
    if len(names) != len(tensors):
        raise IntegrityError(f"The file holds {len(tensors)} tensors where {len(names)} belong.", where=str(file))
    for name, (given, tensor) in zip(names, tensors, strict=True):
        wanted = list(expected[name].shape)
        if list(tensor.shape) != wanted:
            raise IntegrityError(
                f"The tensor {given!r} has the shape {list(tensor.shape)}, not {wanted} of {name!r}.", where=str(file)
            )
    return {name: tensor.contiguous() for name, (_, tensor) in zip(names, tensors, strict=True)}


def _read(file: Path) -> dict[str, Tensor]:
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; a pickle with code in it is one of them
        raise IntegrityError(
            f"The file is no plain state of tensors: {type(error).__name__}.", where=str(file)
        ) from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise IntegrityError("The file holds something else than named tensors.", where=str(file))
    return found
