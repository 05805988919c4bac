"""What rows are routed by, as vectors: their texts, pictures or recordings, and some that belong to nobody.

What belongs to nobody is made here for pictures and recordings: plain, striped, noisy, humming. The calibration learns
from it what "none of these adapters" looks like; the rows of other adapters are the harder half of that.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modalities import embedding, registry
from modalities.audio.config import RATE
from modalities.audio.sound import decode_sound
from modalities.vision.images import decode_image
from serving.general import SENTENCES
from serving.prototypes import Vectors
from serving.router import routed_text
from serving.senses import ENGINES
from store import artifacts

BATCH = 64
SIDE, SECONDS, COUNT = 96, 1.5, 48
Row = dict[str, Any]


def subjects(modality: str, rows: Sequence[Row]) -> list[Any]:
    """What each row is routed by: a text, or the digest of its picture or recording; empty where it has none."""
    if modality == "text":
        return [routed_text(row["messages"][:-1]) for row in rows]
    return [row["image" if modality == "vision" else "audio"] for row in rows]


def embedder(modality: str, model: str, check: Callable[[], None]) -> Callable[[Sequence[Any]], Vectors]:
    """What turns subjects into unit vectors `[subjects, dims]` by a model; media may also be given decoded.

    Args:
        modality: Of the subjects.
        model: Catalogue id.
        check: Called before each batch; may raise to stop.
    """
    engine = None if modality == "text" else registry.load(ENGINES[modality])(model)

    def once(given: Sequence[Any]) -> Vectors:
        if engine is None:
            return embedding.embed(given, model)
        decoded = [_decoded(modality, one) if isinstance(one, str) else one for one in given]
        vectors: Vectors = engine.embed(decoded, [None] * len(decoded))
        return vectors

    def embed(given: Sequence[Any]) -> Vectors:
        found = []
        for start in range(0, len(given), BATCH):
            check()
            found.append(once(given[start : start + BATCH]))
        return np.concatenate(found) if found else np.zeros((0, 0), dtype=np.float32)

    return embed


def _decoded(modality: str, digest: str) -> Any:
    data = artifacts.get_bytes(digest)
    return decode_image(data, digest) if modality == "vision" else decode_sound(data, digest).samples


def nobodys(modality: str) -> Sequence[Any]:
    """Sentences, pictures or recordings that belong to no adapter, always the same."""
    if modality == "text":
        return SENTENCES
    chance = np.random.default_rng(0)
    return [_picture(chance, n) if modality == "vision" else _recording(chance, n) for n in range(COUNT)]


def _picture(chance: np.random.Generator, number: int) -> Image.Image:
    """In turns: one colour, a gradient, stripes, blotches, noise."""
    low, high = chance.integers(0, 256, (2, 3))
    across, down = np.meshgrid(np.linspace(0, 1, SIDE), np.linspace(0, 1, SIDE))
    turned = across * np.cos(angle := chance.uniform(0, np.pi)) + down * np.sin(angle)
    fields = (
        np.zeros((SIDE, SIDE)),
        turned,
        (np.sin(turned * chance.uniform(10, 60)) > 0).astype(float),
        np.kron(chance.random((8, 8)), np.ones((SIDE // 8, SIDE // 8))),
        chance.random((SIDE, SIDE)),
    )
    share = np.clip(fields[number % len(fields)], 0, 1)[..., None]
    return Image.fromarray((low * (1 - share) + high * share).astype(np.uint8))


def _recording(chance: np.random.Generator, number: int) -> NDArray[np.float32]:
    """In turns: a tone, noise, a sweep, clicks; never silent."""
    time = np.arange(int(SECONDS * RATE)) / RATE
    pitch = chance.uniform(80, 2000)
    clicks = np.zeros(len(time))
    clicks[chance.integers(0, len(time), 20)] = 1.0
    fields = (
        np.sin(2 * np.pi * pitch * time),
        chance.standard_normal(len(time)) / 4,
        np.sin(2 * np.pi * pitch * time * (1 + time)),
        clicks,
    )
    return (chance.uniform(0.05, 0.5) * fields[number % len(fields)]).astype(np.float32)
