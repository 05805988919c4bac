"""What the frozen lower stages make of images, computed once for all epochs and trials; mirrored images too.

The cache is that of `modalities.frozen`: an item is an image as it is or mirrored, and has one vector, the whole output
of the last frozen stage. Items stand in the order of the images' contents, whatever order the rows have.
"""

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from moatelier.ids import digest_json
from modalities.frozen import FrozenStates, Layers, open_states
from modalities.machine import DTYPES
from modalities.vision.config import ImageTransform
from modalities.vision.model import VisionBase
from modalities.vision.pixels import mirrored, to_pixels

FILL_IMAGES = 64
"""Images that go through the frozen stages at once while the cache is filled."""


class Features:
    """The output of the stages below `stop` for any of the given images. Use `close()` at the end.

    Args:
        base: The loaded base; only its frozen part is used.
        images: The pixel digest of each image, see `ImageRow.pixels`; equal ones are computed once.
        open_image: Position among `images` -> the image, in RGB.
        transform: How images become the tower's input.
        stop: The first stage not to run: 0 gives pixels, the number of stages gives the tower's features.
        mirror: Keep what is made of each mirrored image as well.
        progress: Told (batches done, batches in all) while the cache is filled; may raise to stop.
        cache: Keep it on disk if it fits there.
    """

    def __init__(
        self,
        base: VisionBase,
        images: Sequence[str],
        open_image: Callable[[int], Image.Image],
        transform: ImageTransform,
        stop: int,
        *,
        mirror: bool = False,
        progress: Callable[[int, int], None] = lambda *_: None,
        cache: bool = True,
    ) -> None:
        self._base, self._transform, self._stop = base, transform, stop
        self._open_image = open_image
        first = {pixels: position for position, pixels in reversed(list(enumerate(images)))}
        distinct = sorted(first)
        self._position = [first[pixels] for pixels in distinct]
        place = {pixels: number for number, pixels in enumerate(distinct)}
        self._numbers = [place[pixels] for pixels in images]
        self._both = 2 if mirror else 1
        with torch.inference_mode():
            blank = torch.zeros(1, 3, transform.size, transform.size)
            self.shape = tuple(self._run(blank).shape[1:])
        """Of what is made of one image."""
        count = self._both * len(distinct)
        layers = Layers(
            key={
                "base": base.digest,
                "boundary": stop,
                "transform": transform.digest,
                "precision": base.precision,
                "device": base.device.type,
                "images": digest_json(distinct),
                "each": self._both,
            },
            sizes=(1,) * count,
            width=torch.Size(self.shape).numel(),
            dtype=DTYPES[base.precision],
            batches=tuple(range(at, min(at + FILL_IMAGES, count)) for at in range(0, count, FILL_IMAGES)),
        )
        if not cache or stop == 0:  # pixels are made faster than they are read
            self._states = FrozenStates(layers, self._compute, None, None)
        else:
            self._states = open_states(layers, self._compute, progress)

    @property
    def cached(self) -> bool:
        """Whether everything lies on disk; else it is computed at each use."""
        return self._states.cached

    def read(self, rows: Sequence[int], mirror: Sequence[bool] | None = None) -> Tensor:
        """What the stages make of some images, `[rows, *shape]`, on the base's device.

        Args:
            rows: Positions among `images`.
            mirror: Which of them to read mirrored; only where these are kept.
        """
        turned = mirror or [False] * len(rows)
        assert self._both == 2 or not any(turned), "mirrored images were not asked for"
        items = [self._numbers[row] * self._both + int(turn) for row, turn in zip(rows, turned, strict=True)]
        return self._states.read(items).to(self._base.device).view(len(rows), *self.shape)

    def close(self) -> None:
        """Let go of the cache."""
        self._states.close()

    def _compute(self, items: Sequence[int]) -> Tensor:
        pixels = []
        for item in items:
            number, turned = divmod(item, self._both)
            one = to_pixels(self._open_image(self._position[number]), self._transform)
            pixels.append(mirrored(one) if turned else one)
        return self._run(torch.stack(pixels)).flatten(1)

    def _run(self, pixels: Tensor) -> Tensor:
        x = pixels.to(self._base.device, DTYPES[self._base.precision])
        return self._base.tower.run_stages(x, 0, self._stop)
