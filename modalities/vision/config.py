"""What is known of a vision model without loading it: its format, and how an image becomes its input. No torch here."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from moatelier.contracts import Contract
from moatelier.errors import InvalidRequest, ModelUnavailable
from modalities.base import Modality

VISION = Modality(
    name="vision",
    kinds=("classification", "retrieval"),
    metrics=("accuracy", "macro_f1", "exact_match", "recall_at_1", "recall_at_5"),
    methods=("top_blocks", "image_lora", "linear_probe", "contrastive"),
    suffixes=(".zip", ".csv", ".jsonl"),
    max_tokens=0,
    content="image",
    data="modalities.vision.data",
    curating="modalities.vision.curating",
    model="modalities.vision.model:load_base",
)

CONFIGS = {"open_clip": "open_clip_config.json", "timm": "config.json"}
"""Format -> the file that tells it, as the Hub's folders have them; the first that is there counts."""
WEIGHTS = {
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors"),
    "timm": ("model.safetensors",),
}
"""Format -> the names its weights may have, best first."""

TRANSFORM = "transform"
"""The field of an adapter's `adapter_config.json` that says how images come in."""
WORDS = "words"
"""And the one that names the tower of words, see `WordsTold`."""

Channels = tuple[float, float, float]


class ImageTransform(Contract):
    """How an image becomes a model's input. Its `digest` is sealed with an adapter: another transform is another model.

    `crop` scales the shorter side so that the central square of `size` holds the share `keep` of it; `squash` scales
    both sides to `size`. Then `(value / 255 - mean) / std` for each channel.
    """

    size: int = Field(ge=16, le=1024)
    """Pixels of either side."""
    mean: Channels
    std: Channels
    fit: Literal["crop", "squash"] = "crop"
    keep: float = Field(default=1.0, gt=0, le=1)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def at(self, size: int) -> "ImageTransform":
        """The same for another size.

        Raises:
            InvalidRequest: The size is out of bounds.
        """
        try:
            return ImageTransform(**(self.model_dump() | {"size": size}))
        except ValidationError as error:
            raise InvalidRequest(
                f"Images cannot be brought to {size} pixels.", where="size", remedy="Choose a size of 16 to 1024."
            ) from error


class WordsTold(Contract):
    """The tower of words that a contrastive adapter was tuned with."""

    base: str | None
    """Its catalogue id where it is a model of its own."""
    base_digest: str | None
    """And what names its bytes."""
    first: int = Field(ge=0)
    """The first of its blocks that is tuned."""


class VisionConfig(Contract):
    """A model's folder in words."""

    format: Literal["timm", "open_clip"]
    """`timm`: an image tower alone. `open_clip`: image and text towers, trained together."""
    architecture: str
    transform: ImageTransform

    @property
    def any_size(self) -> bool:
        """Whether it surely takes images of other sizes: convolutions do, patches with positions do not."""
        return self.format == "timm" and "efficientnet" in self.architecture

    @property
    def zero_shot(self) -> bool:
        """Whether images and words meet in one space without any tuning."""
        return self.format == "open_clip"


def read_config(folder: Path) -> VisionConfig:
    """Read the configuration of a folder as timm or open_clip write it for the Hub.

    Raises:
        ModelUnavailable: There is none, or it asks for what is not supported.
    """
    for name, read in (("open_clip", _open_clip), ("timm", _timm)):
        file = folder / CONFIGS[name]
        if not file.is_file():
            continue
        try:
            return read(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ModelUnavailable(
                f"This is not the configuration of a vision model: {type(error).__name__}: {error}.",
                where=str(file),
                remedy="Use a folder as timm or open_clip write it for the Hugging Face Hub.",
            ) from error
    raise ModelUnavailable(
        "This is not a folder of a vision model.",
        where=str(folder),
        remedy=f"It needs one of {', '.join(CONFIGS.values())}.",
    )


def weights_file(folder: Path, format: Literal["timm", "open_clip"]) -> Path:
    """The folder's weights.

    Raises:
        ModelUnavailable: There are none in safetensors.
    """
    for name in WEIGHTS[format]:
        if (folder / name).is_file():
            return folder / name
    raise ModelUnavailable(
        "The model's folder has no weights in safetensors.",
        where=str(folder),
        remedy="Convert them first; pickled weights are never loaded.",
    )


def _timm(raw: dict[str, Any]) -> VisionConfig:
    told = raw["pretrained_cfg"]
    transform = ImageTransform(
        size=told["input_size"][-1],
        mean=told["mean"],
        std=told["std"],
        fit="squash" if told.get("crop_mode") == "squash" else "crop",
        keep=1.0 if told.get("crop_mode") == "squash" else told.get("crop_pct") or 1.0,
        interpolation=told.get("interpolation", "bicubic"),
    )
    return VisionConfig(format="timm", architecture=raw["architecture"], transform=transform)


def _open_clip(raw: dict[str, Any]) -> VisionConfig:
    model, told = raw["model_cfg"], raw.get("preprocess_cfg", {})
    size = told.get("size") or model["vision_cfg"].get("image_size", 224)
    transform = ImageTransform(
        size=size[0] if isinstance(size, list) else size,
        mean=told.get("mean", (0.48145466, 0.4578275, 0.40821073)),  # OpenAI's, open_clip's default
        std=told.get("std", (0.26862954, 0.26130258, 0.27577711)),
        fit={"shortest": "crop", "squash": "squash"}[told.get("resize_mode", "shortest")],
        interpolation=told.get("interpolation", "bicubic"),
    )
    architecture = model["vision_cfg"].get("timm_model_name") or "open_clip"
    return VisionConfig(format="open_clip", architecture=architecture, transform=transform)
