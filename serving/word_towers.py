"""Towers of words in the engine: each loaded once, with whatever adapter's low-rank parts act for a while."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from moatelier.errors import IntegrityError
from modalities.vision.config import WordsTold
from modalities.vision.model import VisionBase, load_base
from modalities.vision.word_tower import embed_words, text_tower, word_layers
from serving.hooked import Hooked
from serving.lora import Part, Stack, StackedPass


class WordTower:
    """A tower of words.

    Args:
        base: Loaded with it; its tower of words gets hooks.
    """

    def __init__(self, base: VisionBase) -> None:
        self.module: nn.Module = text_tower(base.clip)
        self.digest = base.text_digest
        self.scale = float(base.clip.logit_scale.detach().float().exp())
        self.space: int = getattr(self.module, "output_dim", 0)
        """Width of its vectors, where it is a model of its own."""
        self._tokenizer, self._device = base.tokenizer, base.device
        self._hooked = Hooked(self.module, word_layers(self.module, 0))

    def vectors(self, texts: Sequence[str], words: "Words | None") -> Tensor:
        """Vectors of unit length `[texts, space]`, by an adapter or as the tower was trained."""
        acting = StackedPass(Stack([words]), torch.zeros(1, dtype=torch.long, device=self._device)) if words else None
        with self._hooked.acting(acting):
            return embed_words(self.module, self._tokenizer, texts, self._device)


@dataclass(frozen=True)
class Words:
    """An adapter's part in comparing images with words.

    Attributes:
        tower: Of words.
        scale: What similarities are multiplied by.
        project: Weight `[space, width]` and bias `[space]` that bring features into the space; None is the base's own.
        parts: Name of a layer of the tower -> what is added there.
    """

    tower: WordTower = field(repr=False)
    scale: float
    project: tuple[Tensor, Tensor] | None
    parts: Mapping[str, Part]

    @property
    def bytes(self) -> int:
        """What it takes, without the tower."""
        whole = sum(tensor.nbytes for tensor in self.project or ())
        return whole + sum(part.a.nbytes + part.b.nbytes for part in self.parts.values())


class WordTowers:
    """The towers of words that adapters of one base were tuned with.

    Args:
        base: With a tower of words of its own, or without any.
    """

    def __init__(self, base: VisionBase) -> None:
        self._base = base
        self._loaded: dict[str | None, WordTower] = {}

    @property
    def own(self) -> WordTower:
        """The base's own tower of words.

        Raises:
            InvalidRequest: It has none, or none that has met its images.
        """
        self._base.require_shared_space()
        return self._get(None)

    def found(self, told: WordsTold, where: str) -> WordTower:
        """The tower that an adapter's configuration names.

        Raises:
            IntegrityError: Its bytes are others than the adapter was tuned with.
            ModelUnavailable: It has not been pulled.
        """
        tower = self._get(told.base)
        if tower.digest != told.base_digest:
            raise IntegrityError(
                f"The adapter was tuned with other words: {str(told.base_digest)[:12]}, not {str(tower.digest)[:12]}.",
                where=where,
                remedy="Pull the model that it names, or tune it again.",
            )
        return tower

    def _get(self, base_id: str | None) -> WordTower:
        if base_id not in self._loaded:
            base = self._base
            if base_id is not None:
                base = load_base(base.entry_id, base.precision, text=base_id)
            self._loaded[base_id] = WordTower(base)
        return self._loaded[base_id]
