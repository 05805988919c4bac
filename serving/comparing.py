"""Images and words as vectors that can be compared, where an adapter or the base has brought them into one space."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from moatelier.errors import InvalidRequest
from moatelier.ids import digest_json
from modalities.vision.model import VisionBase
from modalities.vision.word_tower import class_texts, class_vectors
from serving.memory import Memory
from serving.remembered import Remembered
from serving.tower import Adapter
from serving.word_towers import Words, WordTowers


class Comparing:
    """Vectors of images, of texts and of classes. The adapters' weights are held meanwhile.

    Args:
        base: The base.
        towers: Of words.
        memory: Holds the vectors of classes.
    """

    def __init__(self, base: VisionBase, towers: WordTowers, memory: Memory) -> None:
        self._base, self._towers = base, towers
        self.classes_seen = Remembered[Tensor]("classes", memory)

    def images(self, features: Tensor, adapters: Sequence[Adapter | None]) -> Tensor:
        """Vectors of unit length `[images, width]` in float32 of features `[images, width]`.

        Raises:
            InvalidRequest: The adapters' spaces differ in width.
        """
        alike: dict[Adapter | None, list[int]] = defaultdict(list)
        for place, adapter in enumerate(adapters):
            alike[adapter if _words(adapter) else None].append(place)
        found: dict[int, Tensor] = {}
        for adapter, places in alike.items():
            found |= zip(places, self._projected(features[places], _words(adapter)), strict=True)
        if len(widths := {len(vector) for vector in found.values()}) > 1:
            raise InvalidRequest(
                f"The adapters give vectors of {' and '.join(map(str, sorted(widths)))} numbers.",
                where="adapters",
                remedy="Ask for those of one space at a time.",
            )
        if not found:
            return features
        return normalize(torch.stack([found[place] for place in range(len(adapters))]), dim=-1)

    def compares(self, adapter: Adapter | None) -> bool:
        """Whether images and words have met there."""
        return bool(_words(adapter)) or self._base.config.zero_shot

    def texts(self, texts: Sequence[str], adapter: Adapter | None) -> Tensor:
        """Vectors of unit length `[texts, width]` in float32, in the space where the adapter's images are.

        Raises:
            InvalidRequest: The base's images have never met words, nor has the adapter brought them together.
        """
        words = _words(adapter)
        return (words.tower if words else self._towers.own).vectors(texts, words)

    def classes(self, names: Sequence[str], prompts: Sequence[str], adapter: Adapter | None) -> Tensor:
        """The vector of each class `[classes, width]`. Raises as `texts` does."""
        owner = adapter.digest if adapter and _words(adapter) else self._base.digest
        key = (owner, digest_json([list(names), list(prompts)]))
        found = self.classes_seen.get(key)
        if found is None:
            found = class_vectors(self.texts(class_texts(names, prompts), adapter), len(names))
            self.classes_seen.put(key, found, found.nbytes)
        return found

    def scale(self, adapter: Adapter | None) -> float:
        """What similarities are multiplied by. Raises as `texts` does."""
        words = _words(adapter)
        return words.scale if words else self._towers.own.scale

    def _projected(self, features: Tensor, words: Words | None) -> Tensor:
        if words and words.project:
            return linear(features.float(), *words.project)
        project = self._base.tower.project
        kind = next((weight.dtype for weight in project.parameters()), features.dtype)
        projected: Tensor = project(features.to(kind))
        return projected.float()


def _words(adapter: Adapter | None) -> Words | None:
    return adapter.weights.words if adapter and adapter.weights else None
