"""The modality of questions about pictures, and what its bundles say beside PEFT's own two files. No torch here."""

import json
from pathlib import Path

from pydantic import Field, ValidationError

from moatelier.contracts import Contract
from moatelier.errors import IntegrityError
from modalities.base import Modality
from modalities.vision.config import ImageTransform

NAME = "imagetext"
"""The modality, as cards and bundles call it."""
IMAGETEXT = Modality(
    name=NAME,
    kinds=("chat",),
    metrics=("exact_match", "accuracy"),
    methods=("llava",),
    suffixes=(".zip", ".csv", ".jsonl"),
    max_tokens=1024,
    content="picture",
    data="modalities.imagetext.data",
    curating="modalities.imagetext.curating",
    model="modalities.text.model:load_base",
    files="vision",
)
SIGHT = "sight.json"
PROJECTOR = "projector.safetensors"
"""Files of their own: what LoRA changes is read from PEFT's as from any other text adapter's."""
GRID = 2
"""A picture is seen at so many by so many places at most."""


class Sight(Contract):
    """`sight.json`: which model sees, and in which shape the projector takes what it sees."""

    base: str
    """Catalogue id of the vision base."""
    base_digest: str
    transform: ImageTransform
    vectors: int = Field(ge=1, le=64)
    """Vectors a picture becomes; they stand in the prompt like as many tokens."""
    hidden: int = Field(ge=1, le=65536)
    """Width of the projector's hidden layer."""


def read_sight(folder: Path) -> Sight:
    """What a bundle says.

    Raises:
        IntegrityError: It says nothing, or something else.
    """
    try:
        return Sight.model_validate(json.loads((folder / SIGHT).read_bytes()))
    except (OSError, ValueError, ValidationError) as error:
        raise IntegrityError(
            f"The adapter does not say how pictures come in: {type(error).__name__}.",
            where=str(folder / SIGHT),
            remedy="Tune it again.",
        ) from error
