"""From an adapter's embedded training rows to its profile: a few points that say where its rows lie.

A label's rows are stood for by their mean. Labels with many rows, and chats, which have no labels, are split further
by spherical k-means (Dhillon & Modha 2001, Machine Learning 42:143).
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moatelier.contracts import AdapterManifest, RouterProfile
from moatelier.errors import DataError, IntegrityError

Vectors = NDArray[np.float32]
LIMIT = 16
"""Prototypes of an adapter with few labels or none."""
A_LABEL = 6
"""Prototypes for each label of an adapter with many: the mean of a label's rows hides that people ask in many ways.

Cross-validated on training rows of banking77 (`benchmarks/router.py --choose`): with 77 intents in six groups 94.0 % of
the rows come home at 1, 95.1 % at 2, 95.9 % at 4, 96.2 % at 6, 96.1 % at 8.
"""
MOST = 96
"""Prototypes of any adapter; with more labels than this the rows are split without regard to labels."""
ROUNDS = 25
LEAST_ROWS = 8
"""A prototype stands for at least about this many rows; fewer say more of chance than of the domain."""


def pack(vectors: Vectors) -> str:
    """Vectors as base64 of little-endian float16, for JSON. Half precision moves a cosine by less than 0.001."""
    return base64.b64encode(np.ascontiguousarray(vectors, dtype="<f2").tobytes()).decode("ascii")


def unpack(text: str, dims: int) -> Vectors:
    """The vectors `[n, dims]` that `pack` wrote, of unit length again.

    Raises:
        IntegrityError: This is not what `pack` writes.
    """
    try:
        flat = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2").astype(np.float32)
        vectors = flat.reshape(-1, dims)
    except (binascii.Error, ValueError) as error:
        raise IntegrityError(f"Packed vectors cannot be read: {error}.", remedy="Make the profile again.") from error
    if not np.isfinite(vectors).all():
        raise IntegrityError("Packed vectors hold numbers that are none.", remedy="Make the profile again.")
    return unit(vectors)


def unit(vectors: NDArray[Any]) -> Vectors:
    """Rows scaled to unit length; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def profile(
    manifest: AdapterManifest,
    vectors: Vectors,
    labels: Sequence[str | None],
    *,
    embedding: str,
    embedding_digest: str,
    seed: int = 0,
) -> RouterProfile:
    """The profile of an adapter.

    Args:
        manifest: Of its bundle.
        vectors: Its embedded training rows `[rows, dims]`, unit length.
        labels: The label of each row, None where it has none.
        embedding: Catalogue id of the embedding model.
        embedding_digest: Digest of that model's files.
        seed: Fixes k-means.

    Raises:
        DataError: There are no rows.
    """
    if not len(vectors):
        raise DataError("An adapter without training rows has no profile.", where=manifest.digest)
    owners = prototype_of(vectors, labels, seed=seed)
    sums = _sums(vectors, owners)
    near = _nearness(vectors, sums, owners)
    return RouterProfile(
        adapter=manifest.digest,
        embedding=embedding,
        embedding_digest=embedding_digest,
        modality=manifest.modality,
        kind=manifest.kind,
        labels=manifest.labels,
        rows=len(vectors),
        dims=vectors.shape[1],
        prototypes=pack(unit(sums)),
        counts=tuple(int(count) for count in np.bincount(owners, minlength=len(sums))),
        nearness=round(float(near.mean()), 6),
        spread=round(float(near.std()), 6),
    )


def prototype_of(
    vectors: Vectors, labels: Sequence[str | None], *, seed: int = 0, a_label: int = A_LABEL
) -> NDArray[np.intp]:
    """Which prototype each row belongs to `[rows]`: numbers from 0, all of them used."""
    groups = _groups(labels)
    if len(groups) > MOST:
        groups = {"": np.arange(len(vectors))}
    limit = min(max(LIMIT, a_label * len(groups)), MOST)
    owners = np.zeros(len(vectors), dtype=np.intp)
    used = 0
    for rows in groups.values():
        share = max(1, min(round(limit * len(rows) / len(vectors)), len(rows) // LEAST_ROWS))
        found = _cluster(vectors[rows], share, seed)
        owners[rows] = used + found
        used += int(found.max()) + 1
    return owners


def _groups(labels: Sequence[str | None]) -> dict[str, NDArray[np.intp]]:
    names = np.array([label or "" for label in labels])
    return {str(name): np.flatnonzero(names == name) for name in np.unique(names)}


def _cluster(vectors: Vectors, count: int, seed: int) -> NDArray[np.intp]:
    """Spherical k-means from seeds that lie far from each other; the same rows and seed give the same clusters."""
    if count < 2:
        return np.zeros(len(vectors), dtype=np.intp)
    centres = _far_apart(vectors, count, np.random.default_rng(seed))
    owners = np.full(len(vectors), -1, dtype=np.intp)
    for _ in range(ROUNDS):
        nearest = np.argmax(vectors @ centres.T, axis=1)
        if (nearest == owners).all():
            break
        owners = nearest
        sums = _sums(vectors, owners, len(centres))
        filled = np.linalg.norm(sums, axis=1) > 0
        centres[filled] = unit(sums[filled])
    return np.unique(owners, return_inverse=True)[1]


def _far_apart(vectors: Vectors, count: int, random: np.random.Generator) -> Vectors:
    """k-means++ (Arthur & Vassilvitskii 2007): each next centre is drawn by its distance from those before."""
    chosen = [int(random.integers(len(vectors)))]
    for _ in range(count - 1):
        distance = np.maximum(1 - (vectors @ vectors[chosen].T).max(axis=1).astype(np.float64), 0)
        distance[chosen] = 0
        if distance.sum() <= 0:
            break
        chosen.append(int(random.choice(len(vectors), p=distance / distance.sum())))
    return vectors[chosen].copy()


def _sums(vectors: Vectors, owners: NDArray[np.intp], count: int | None = None) -> Vectors:
    sums = np.zeros((count or int(owners.max()) + 1, vectors.shape[1]), dtype=np.float32)
    np.add.at(sums, owners, vectors)
    return sums


def _nearness(vectors: Vectors, sums: Vectors, owners: NDArray[np.intp]) -> Vectors:
    """Each row's cosine with the nearest prototype when the row itself is left out of its own `[rows]`."""
    cosines = vectors @ unit(sums).T
    without = unit(sums[owners] - vectors)
    cosines[np.arange(len(vectors)), owners] = np.einsum("rd,rd->r", vectors, without)
    return np.asarray(cosines.max(axis=1), dtype=np.float32)
