"""One face of the engines for texts, images and recordings, and the one that a base is for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from moatelier.contracts import AdapterManifest
from moatelier.errors import ModelUnavailable
from modalities import catalogue, registry
from modalities.imagetext.config import NAME as SHOWN
from serving import senses
from serving.row import Completion
from serving.sampling import Sampling

ENGINES: Mapping[str, str] = {
    "text": "serving.engine:TextEngine",
    "imagetext": "serving.looking:LookingEngine",
    **senses.ENGINES,
}
"""Modality -> its engine, imported when it is opened."""


class Engine(Protocol):
    """A base and any number of its adapters. Not for several threads.

    Attributes:
        base: As its modality loads it.
    """

    base: Any

    @property
    def adapters(self) -> Mapping[str, AdapterManifest]:
        """Loaded adapters by name."""

    def load_adapter(self, name: str, bundle: Path, pinned: bool = False) -> AdapterManifest:
        """Verify a sealed bundle and load it under a name.

        Raises:
            NotFound: There is no bundle in the folder.
            IntegrityError: It was changed, belongs to another base, or changes nothing.
        """

    def generate(
        self, prompts: Sequence[Sequence[Mapping[str, Any]]], *, adapter: str | None, sampling: Sampling
    ) -> list[Completion]:
        """Answer conversations in their order.

        Args:
            prompts: What is asked; pictures and recordings stand in them as rows name their artifacts.
            adapter: Name of a loaded adapter; None is the base.
            sampling: How tokens are chosen, where there are any.
        """


def open_engine(base_id: str, modality: str = "") -> Engine:
    """Load the engine that a base is for.

    Args:
        base_id: Catalogue id.
        modality: Of what is asked; a text model is shown pictures for `imagetext`.

    Raises:
        NotFound: Unknown id.
        ModelUnavailable: The base has not been pulled, or answers nothing.
    """
    kind = modality if modality == SHOWN else catalogue.get(base_id).kind
    if kind not in ENGINES:
        raise ModelUnavailable(
            f"{base_id!r} is a model for {kind}, which answers nothing.",
            where=base_id,
            remedy="Name a model for text, vision or audio; see `moatelier models list`.",
        )
    engine: Engine = registry.load(ENGINES[kind])(base_id)
    return engine
