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

from moatelier.contracts import AdapterManifest
from moatelier.errors import IntegrityError, InvalidRequest
from moatelier.settings import settings
from modalities.machine import Precision
from modalities.vision.duplicates import pixel_digest
from modalities.vision.images import decode_image
from modalities.vision.model import load_base
from modalities.vision.word_tower import PROMPTS
from serving import parts
from serving.adapters import Adapters
from serving.comparing import Comparing
from serving.image_weights import ImageWeights, read_bundle
from serving.memory import Memory, return_to_system
from serving.remembered import Remembered
from serving.row import Completion
from serving.sampling import Sampling
from serving.tower import MOST, Adapter, Seen, TowerPasses
from serving.word_towers import WordTowers

__all__ = ["Completion", "VisionEngine"]

Ranked = list[tuple[str, float]]
"""Labels with their probabilities, best first."""
_SAID = ("a photo of a cat.", "a drawing of two ships")
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
        self._towers = WordTowers(self.base)
        self._comparing = Comparing(self.base, self._towers, self.memory)
        self._adapters: Adapters[ImageWeights] = Adapters(
            self.memory, self._read, self.passes.forget, self._check_canary
        )

    # ---------------------------------------------------------------------------------------------------- adapters

    @property
    def adapters(self) -> dict[str, AdapterManifest]:
        """Loaded adapters by name."""
        return self._adapters.manifests

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
        return self._adapters.add(name, bundle, pinned).manifest

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
            adapters: For each image the name of a loaded adapter. One of contrastive tuning knows its labels by name.

        Raises:
            NotFound: No adapter of this name is loaded.
            InvalidRequest: An adapter, or the base, has no labels.
        """
        ranked = []
        for name, logits in zip(adapters, self.logits(images, adapters), strict=True):
            ranked.append(_ranked(self._adapters.get(str(name)).manifest.labels, logits))
        return ranked

    def logits(self, images: Sequence[Image.Image], adapters: Sequence[str | None]) -> list[Tensor]:
        """What each image's adapter says, `[labels]` in float32 on the CPU, in the order of its manifest's labels.

        Raises as `classify` does.
        """
        loaded = [self._classifier(name) for name in adapters]
        with torch.inference_mode(), self._held(loaded):
            features = self._features(images, loaded)
            return [self._said(adapter, row) for adapter, row in zip(loaded, features, strict=True)]

    def embed(self, images: Sequence[Image.Image], adapters: Sequence[str | None]) -> npt.NDArray[np.float32]:
        """Vectors of unit length `[images, width]`, each as its adapter, or for None the base, sees its image.

        Where images and words share a space, in that of a base of open_clip or of a contrastive adapter, they are
        comparable with those of `embed_texts`.

        Raises:
            NotFound: No adapter of this name is loaded.
            InvalidRequest: Vectors of different width were asked for.
        """
        loaded = [self._named(name) for name in adapters]
        with torch.inference_mode(), self._held(loaded):
            return _array(self._comparing.images(self._features(images, loaded), loaded))

    def compares(self, adapter: str | None) -> bool:
        """Whether images and words share a space by an adapter, or for None by the base.

        Raises:
            NotFound: No adapter of this name is loaded.
        """
        return self._comparing.compares(self._named(adapter))

    def embed_texts(self, texts: Sequence[str], adapter: str | None = None) -> npt.NDArray[np.float32]:
        """Vectors of unit length `[texts, width]` in the space where the adapter's, or the base's, images are.

        Raises:
            NotFound: No adapter of this name is loaded.
            InvalidRequest: There images and words have never met.
        """
        loaded = self._named(adapter)
        with torch.inference_mode(), self._held([loaded]):
            return _array(self._comparing.texts(texts, loaded))

    def zero_shot(
        self,
        images: Sequence[Image.Image],
        names: Sequence[str],
        adapter: str | None = None,
        prompts: Sequence[str] = PROMPTS,
    ) -> list[Ranked]:
        """Classes with their probabilities, best first, by nothing but the classes' names.

        Args:
            images: In RGB.
            names: Of the classes.
            adapter: Of contrastive tuning; None is the base.
            prompts: What a class may be called, `{}` stands for its name; their vectors are averaged.

        Raises:
            NotFound: No adapter of this name is loaded.
            InvalidRequest: There images and words have never met, or there are no names or prompts.
        """
        if not names or not prompts:
            raise InvalidRequest("There are no classes to tell.", where="names", remedy="Name some.")
        loaded = self._named(adapter)
        with torch.inference_mode(), self._held([loaded]):
            classes = self._comparing.classes(names, prompts, loaded)  # refuses before anything is looked at
            vectors = self._comparing.images(self._features(images, [loaded] * len(images)), [loaded] * len(images))
            return [_ranked(names, row) for row in self._comparing.scale(loaded) * vectors @ classes.T]

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
        self._comparing.classes_seen.clear()
        return_to_system()

    # ------------------------------------------------------------------------------------------------- a request

    def _named(self, name: str | None) -> Adapter | None:
        return None if name is None else self._adapters.get(name)

    def _classifier(self, name: str | None) -> Adapter:
        loaded = self._named(name)
        if loaded is None or not loaded.manifest.labels:
            raise InvalidRequest(
                f"`{name or self.base.entry_id}` has no labels to tell.",
                where="model",
                remedy="Ask an adapter that was tuned to classify images.",
            )
        return loaded

    def _said(self, adapter: Adapter, features: Tensor) -> Tensor:
        """Logits `[labels]` by features `[width]`."""
        assert adapter.weights is not None
        if adapter.weights.head:
            return adapter.weights.head(features).float().cpu()
        classes = self._comparing.classes(adapter.manifest.labels, PROMPTS, adapter)
        [vector] = self._comparing.images(features[None], [adapter])
        logits: Tensor = self._comparing.scale(adapter) * classes @ vector
        return logits.cpu()

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
        return read_bundle(folder, self.base, self._towers)

    def _unsaid(self, features: Tensor, loaded: Adapter) -> str:
        """What is wrong with how an adapter compares images with words, if it does."""
        if loaded.weights is None or loaded.weights.words is None:
            return ""
        words = loaded.weights.words
        images = self._comparing.images(features, [loaded] * len(features))
        spoken, plain = words.tower.vectors(_SAID, words), words.tower.vectors(_SAID, None)
        if not bool(images.isfinite().all() and spoken.isfinite().all()):
            return "The adapter's vectors are not finite."
        if torch.equal(spoken, plain):
            return "The adapter does not change what words mean."
        return "The adapter tells no image from another." if torch.equal(images[0], images[1]) else ""

    def _check_canary(self, loaded: Adapter) -> None:
        """An adapter that changes nothing, or tells nothing apart, is one that silently was not applied."""
        with torch.inference_mode(), self._held([loaded]):
            assert loaded.weights is not None
            canaries = [(image, pixel_digest(image), loaded.weights.transform) for image in _canaries()]
            seen = [Seen(*canary, adapter) for adapter in (None, loaded) for canary in canaries]
            base, tuned = self.passes.features(seen).chunk(2)
            problem = _problem(base, tuned, loaded.weights, self.passes.stages) or self._unsaid(tuned, loaded)
        if problem:
            raise IntegrityError(problem, where=str(loaded.path), remedy="Tune it again.")


def _ranked(labels: Sequence[str], logits: Tensor) -> Ranked:
    chances = logits.double().softmax(dim=0).tolist()
    return sorted(zip(labels, chances, strict=True), key=lambda pair: (-pair[1], pair[0]))


def _array(vectors: Tensor) -> npt.NDArray[np.float32]:
    return np.asarray(vectors.cpu().numpy(), dtype=np.float32)


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
