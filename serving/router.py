"""Which adapter a text belongs to: the nearest prototypes of all adapters by one matrix product, calibrated.

    router = Router(profiles, calibration)
    ranked = router.route(vector)        # the embedded text
    ranked.choice                        # an adapter's digest, or BASE when the text belongs to none of them
    ranked.top(3)                        # `auto:3`

Needs numpy only, so that the API's process can route without torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moatelier.contracts import Calibration, RouterProfile
from moatelier.errors import InvalidRequest
from serving.calibration import probabilities
from serving.prototypes import Vectors, unit, unpack

BASE = "base"
"""Stands for the base among the candidates; its probability is that the text belongs to no adapter."""
LONGEST_TEXT = 4000
"""Characters of a request that are embedded; the embedding model reads fewer."""


@dataclass(frozen=True)
class Candidate:
    """An adapter's digest, or BASE, with the calibrated probability that the text belongs to it."""

    name: str
    probability: float


@dataclass(frozen=True)
class Ranked:
    """All candidates, the likeliest first; their probabilities sum to 1.

    Attributes:
        names: Adapters' digests and BASE.
        chances: The calibrated probability of each.
        cosine: With the nearest prototype of any adapter; -1 without adapters.
    """

    names: tuple[str, ...]
    chances: tuple[float, ...]
    cosine: float

    @property
    def choice(self) -> str:
        """The likeliest candidate."""
        return self.names[0]

    @property
    def abstains(self) -> bool:
        """That the text belongs to no adapter is likelier than that it belongs to any one of them."""
        return self.choice == BASE

    @property
    def probabilities(self) -> dict[str, float]:
        """Candidate -> probability."""
        return dict(zip(self.names, self.chances, strict=True))

    def top(self, count: int) -> list[Candidate]:
        """The likeliest `count` adapters, BASE left out: what `auto:<count>` stands for."""
        found = [Candidate(*pair) for pair in zip(self.names[: count + 1], self.chances, strict=False)]
        return [candidate for candidate in found if candidate.name != BASE][:count]


class Router:
    """Routes embedded texts over adapters.

    Args:
        profiles: One for each adapter, all of one embedding model; their order changes nothing.
        calibration: As it was fitted over these adapters; default: that of an unknown set.

    Raises:
        InvalidRequest: Two profiles of one adapter, or profiles of different embedding models.
    """

    def __init__(self, profiles: Sequence[RouterProfile], calibration: Calibration | None = None) -> None:
        ordered = sorted(profiles, key=lambda profile: profile.adapter)
        self.adapters = tuple(profile.adapter for profile in ordered)
        if len(set(self.adapters)) < len(self.adapters):
            raise InvalidRequest("An adapter has two profiles.", remedy="Give each adapter one.")
        if len({(profile.embedding_digest, profile.dims) for profile in ordered}) > 1:
            raise InvalidRequest("The profiles are of different embedding models.", remedy="Make them with one model.")
        self.calibration = calibration or Calibration()
        self.dims = ordered[0].dims if ordered else 0
        stacks = [unpack(profile.prototypes, profile.dims) for profile in ordered]
        self._stack: Vectors = np.concatenate(stacks) if stacks else np.zeros((0, 0), dtype=np.float32)
        self._starts = np.cumsum([0, *map(len, stacks)])[:-1] if stacks else np.zeros(0, dtype=np.intp)

    def scores(self, vectors: Vectors) -> Vectors:
        """Cosine of each vector with the nearest prototype of each adapter `[vectors, adapters]`.

        Raises:
            InvalidRequest: Vectors of another length, or with numbers that are none.
        """
        if not self.adapters:
            return np.zeros((len(vectors), 0), dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dims:
            raise InvalidRequest(f"The router takes vectors of {self.dims} numbers, not {vectors.shape[1:]}.")
        if not np.isfinite(vectors).all():
            raise InvalidRequest("A vector to be routed holds a number that is none.")
        return np.maximum.reduceat(_product(self._stack, unit(vectors)), self._starts, axis=0).T

    def route(self, vector: Sequence[float] | NDArray[Any]) -> Ranked:
        """Rank the adapters for one embedded text `[dims]`. Raises like `scores`."""
        scores = self.scores(np.asarray(vector, dtype=np.float32).reshape(1, -1))
        chances = probabilities(scores, self.calibration)[0]
        names = (*self.adapters, BASE)
        order = np.argsort(-chances, kind="stable")  # the names are in order: ties go to the first of them
        ranked = tuple([names[place] for place in order.tolist()])
        return Ranked(ranked, tuple(chances[order].tolist()), float(scores.max(initial=-1.0)))


def _product(stack: Vectors, vectors: Vectors) -> Vectors:
    """Cosines `[prototypes, vectors]`."""
    if len(vectors) == 1:
        # Not by BLAS: its threads wait for each other, and beside a busy engine that takes 12 ms instead of 1.
        return np.asarray(np.einsum("pd,d->p", stack, vectors[0])[:, None])
    return np.asarray(stack @ vectors.T)


def routed_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of a conversation that is routed by: what the person said last. "" when there is no text.

    Training rows and requests go through this same function. Turns of the person that follow each other are one.
    """
    said: list[str] = []
    for message in reversed(messages):
        if message.get("role") == "user":
            said.append(_plain(message.get("content")))
        elif said:
            break
    return "\n".join(part for part in reversed(said) if part)[-LONGEST_TEXT:].strip()


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content.strip()
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    return "\n".join(text.strip() for text in texts if isinstance(text, str))
