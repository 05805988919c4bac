"""The engine for images: one base, any number of adapters in one batch, labels and vectors. No server, no threads.

images, one adapter's name each -> tower.TowerPasses -> features -> heads -> labels with probabilities
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from moatelier.contracts import AdapterManifest
from moatelier.errors import IntegrityError, InvalidRequest
from moatelier.settings import settings
from modalities.machine import DTYPES, Precision
from modalities.vision.duplicates import pixel_digest
from modalities.vision.images import decode_image
from modalities.vision.model import load_base
from serving import parts
from serving.adapters import Adapters
from serving.image_weights import ImageWeights, read_bundle
from serving.memory import Memory, return_to_system
from serving.remembered import Remembered
from serving.row import Completion
from serving.sampling import Sampling
from serving.tower import MOST, Adapter, Seen, TowerPasses

__all__ = ["Completion", "VisionEngine"]

Ranked = list[tuple[str, float]]
"""Labels with their probabilities, best first."""
_SHARE = 4
"""The engine stands beside one for text, so it takes this part of the setting."""


class VisionEngine:
    """Looks at images with a base and its adapters. Not for several threads at once.

    Args:
        base_id: A catalogue id; the base must have been pulled.
        precision: `auto` or None is bf16 on a GPU and fp32 on a CPU.
        memory_gb: For adapters and for what the tower has made of images; None is a quarter of the setting.

    Raises:
        ModelUnavailable: The base has not been pulled, or is no model for images.
    """

    def __init__(
        self, base_id: str, precision: Precision | Literal["auto"] | None = None, memory_gb: float | None = None
    ) -> None:
        self.base = load_base(base_id, precision or "auto")
        self.precision = self.base.precision
        self.memory = Memory(int((memory_gb or settings().engine_memory_gb / _SHARE) * 1e9))
        self.states = Remembered[Tensor]("state", self.memory)
        self.passes = TowerPasses(self.base, self.states)
        self._adapters: Adapters[ImageWeights] = Adapters(self.memory, self._read, self.passes.forget)

    # ---------------------------------------------------------------------------------------------------- adapters

    @property
    def adapters(self) -> dict[str, AdapterManifest]:
        """Loaded adapters by name."""
        return {loaded.name: loaded.manifest for loaded in self._adapters.all()}

    def load_adapter(self, name: str, bundle: Path, pinned: bool = False) -> AdapterManifest:
        """Verify a sealed bundle and load it under a name. The same bundle again changes nothing.

        Args:
            name: What requests will call it.
            bundle: Its folder.
            pinned: Never evict its weights.

        Raises:
            NotFound: There is no bundle in the folder.
            IntegrityError: Changed bytes, another base or transform, weights that do not fit, or an adapter that
                changes nothing or tells nothing apart.
            Conflict: The name stands for another bundle.
            ResourceExhausted: Memory has no room for it.
        """
        new = name not in self.adapters
        loaded = self._adapters.add(name, bundle, pinned)
        if new:
            try:
                self._check_canary(loaded)
            except BaseException:  # whatever went wrong, nobody may be answered by what was not checked
                self._adapters.remove(name)
                raise
        return loaded.manifest

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            NotFound: No adapter of this name is loaded.
        """
        self._adapters.remove(name)

    # -------------------------------------------------------------------------------------------------- answers

    def classify(self, images: Sequence[Image.Image], adapters: Sequence[str | None]) -> list[Ranked]:
        """The labels of each image's adapter with their probabilities, best first.

        Args:
            images: In RGB.
            adapters: For each image the name of a loaded adapter.

        Raises:
            NotFound: No adapter of this name is loaded.
            InvalidRequest: An adapter, or the base, has no labels.
        """
        ranked = []
        for name, logits in zip(adapters, self.logits(images, adapters), strict=True):
            chances = logits.double().softmax(dim=0).tolist()
            labels = self._adapters.get(str(name)).manifest.labels
            ranked.append(sorted(zip(labels, chances, strict=True), key=lambda pair: (-pair[1], pair[0])))
        return ranked

    def logits(self, images: Sequence[Image.Image], adapters: Sequence[str | None]) -> list[Tensor]:
        """What each image's adapter says, `[labels]` in float32 on the CPU, in the order of its manifest's labels.

        Raises as `classify` does.
        """
        loaded = [self._classifier(name) for name in adapters]
        with torch.inference_mode(), self._held(loaded):
            features = self._features(images, loaded)
            return [
                adapter.weights.head(row).float().cpu()
                for adapter, row in zip(loaded, features, strict=True)
                if adapter.weights and adapter.weights.head
            ]

    def embed(self, images: Sequence[Image.Image], adapters: Sequence[str | None]) -> npt.NDArray[np.float32]:
        """Vectors of unit length `[images, width]`, each as its adapter, or for None the base, sees its image.

        Those of a base of open_clip lie in the space of its words.

        Raises:
            NotFound: No adapter of this name is loaded.
        """
        loaded = [None if name is None else self._adapters.get(name) for name in adapters]
        with torch.inference_mode(), self._held(loaded):
            features = self._features(images, loaded).to(self.base.device)
            vectors = self.base.tower.project(features.to(DTYPES[self.precision]))
            return np.asarray(normalize(vectors.float(), dim=-1).cpu().numpy(), dtype=np.float32)

    def generate(
        self,
        prompts: Sequence[Sequence[Mapping[str, Any]]],
        *,
        adapter: str | None = None,
        sampling: Sampling | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Answer many prompts in their order, each with the likeliest label; the base has none and says nothing.

        Args:
            prompts: Conversations; the last image in each is what is asked about, as rows or requests name it.
            adapter: Name of a loaded adapter; None is the base.
            sampling: Without effect: a label is one choice.
            progress: Called with the number of answers so far; may raise to stop.

        Raises:
            NotFound: No adapter of this name is loaded, or an artifact is gone.
            InvalidRequest: A prompt has no image; `where` says which, counted from 0.
            DataError: An image is damaged.
        """
        answers: list[Completion] = []
        for at in range(0, len(prompts), MOST):
            images = [_image(messages, at + n) for n, messages in enumerate(prompts[at : at + MOST])]
            labels = [""] * len(images)
            if adapter is not None:
                labels = [ranked[0][0] for ranked in self.classify(images, [adapter] * len(images))]
            answers += [Completion(label, (), "stop", 0, 1 if label else 0) for label in labels]
            if progress:
                progress(len(answers))
        return answers

    def rest(self) -> None:
        """Nobody has asked for a while: let go of what was made of images, and of what memory that leaves."""
        self.states.clear()
        return_to_system()

    # ------------------------------------------------------------------------------------------------- a request

    def _classifier(self, name: str | None) -> Adapter:
        loaded = self._adapters.get(name) if name is not None else None
        if loaded is None or not loaded.manifest.labels:
            raise InvalidRequest(
                f"`{name or self.base.entry_id}` has no labels to tell.",
                where="model",
                remedy="Ask an adapter that was tuned to classify images.",
            )
        return loaded

    def _features(self, images: Sequence[Image.Image], loaded: Sequence[Adapter | None]) -> Tensor:
        return self.passes.features([self._seen(*pair) for pair in zip(images, loaded, strict=True)])

    def _seen(self, image: Image.Image, loaded: Adapter | None) -> Seen:
        transform = loaded.weights.transform if loaded and loaded.weights else self.base.config.transform
        return Seen(image, pixel_digest(image), transform, loaded)

    @contextmanager
    def _held(self, loaded: Sequence[Adapter | None]) -> Iterator[None]:
        """Have the weights of some adapters in memory meanwhile."""
        held: list[Adapter] = []
        try:
            for adapter in dict.fromkeys(each for each in loaded if each):
                self._adapters.hold(adapter)
                held.append(adapter)
            yield
        finally:
            for adapter in held:
                self._adapters.release(adapter)

    # ------------------------------------------------------------------------------------------------- adapters

    def _read(self, folder: Path) -> tuple[AdapterManifest, ImageWeights]:
        return read_bundle(folder, self.base)

    def _check_canary(self, loaded: Adapter) -> None:
        """An adapter that changes nothing, or tells nothing apart, is one that silently was not applied."""
        with torch.inference_mode(), self._held([loaded]):
            assert loaded.weights is not None
            canaries = [(image, pixel_digest(image), loaded.weights.transform) for image in _canaries()]
            seen = [Seen(*canary, adapter) for adapter in (None, loaded) for canary in canaries]
            base, tuned = self.passes.features(seen).chunk(2)
            problem = _problem(base, tuned, loaded.weights, self.passes.stages)
        if problem:
            raise IntegrityError(problem, where=str(loaded.path), remedy="Tune it again.")


def _problem(base: Tensor, tuned: Tensor, weights: ImageWeights, stages: int) -> str:
    """What is wrong with an adapter, by the features of two images that the base and it give."""
    if weights.first_layer < stages and torch.equal(base, tuned):
        return "The adapter does not change what the base sees."
    if weights.head is None:
        return ""
    logits = weights.head(tuned)
    if not bool(logits.isfinite().all()):
        return "The adapter's logits are not finite."
    return "The adapter tells no image from another." if torch.equal(logits[0], logits[1]) else ""


def _canaries() -> list[Image.Image]:
    """Two images that have nothing in common: a slope of colour, and noise."""
    slope = np.linspace(0, 255, 32)
    colours = np.stack(np.broadcast_arrays(slope[:, None], slope[None, :], 255 - slope[:, None]), axis=-1)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    return [Image.fromarray(values.astype(np.uint8)) for values in (colours, noise)]


def _image(messages: Sequence[Mapping[str, Any]], number: int) -> Image.Image:
    part = parts.last(messages, "image", stored=True)
    if part is None:
        raise InvalidRequest("The prompt has no image.", where=f"messages of prompt {number}", remedy="Add one.")
    return decode_image(part.data, part.where)
