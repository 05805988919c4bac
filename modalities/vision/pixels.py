"""Images to a tower's input: as the transform says, or augmented for training, the same for the same seed."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from modalities.vision.config import ImageTransform

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_INTERPOLATION = {"bicubic": v2.InterpolationMode.BICUBIC, "bilinear": v2.InterpolationMode.BILINEAR}


def to_pixels(image: Image.Image, transform: ImageTransform) -> Tensor:
    """An RGB image as `[3, size, size]`, normalised, in float32.

    The square is cut out of the image before it is scaled, so that a strip of 1 x 50,000,000 pixels is no larger on the
    way than at its end.
    """
    width, height = image.size
    box = (0.0, 0.0, float(width), float(height))
    if transform.fit == "crop":
        side = min(width, height) * transform.keep
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    size = (transform.size, transform.size)
    return normalised(image.resize(size, _RESAMPLING[transform.interpolation], box=box), transform)


def normalised(image: Image.Image, transform: ImageTransform) -> Tensor:
    """An RGB image of the right size as `[3, size, size]`."""
    values = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).float().div_(255)
    mean, std = (torch.tensor(part)[:, None, None] for part in (transform.mean, transform.std))
    return values.sub_(mean).div_(std).contiguous()


def mirrored(pixels: Tensor) -> Tensor:
    """Left and right exchanged, of `[..., height, width]`."""
    return pixels.flip(-1)


def augmented(
    image: Image.Image, transform: ImageTransform, seed: int, *, area: Sequence[float] = (0.5, 1.0), mirror: bool = True
) -> Tensor:
    """A random part of an image, mirrored half of the time, as `[3, size, size]`.

    Args:
        image: RGB.
        transform: Gives size, interpolation and normalisation.
        seed: The same seed gives the same pixels, whatever was drawn before.
        area: Least and greatest share of the image's area that the part has.
        mirror: Left and right may be exchanged; not where they mean something, as in writing.
    """
    change = v2.Compose(
        [
            v2.RandomResizedCrop(
                transform.size, scale=area, interpolation=_INTERPOLATION[transform.interpolation], antialias=True
            ),
            v2.RandomHorizontalFlip(0.5 if mirror else 0.0),
        ]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return normalised(change(image), transform)
