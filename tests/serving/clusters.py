"""Invented domains: clusters of unit vectors, as adapters' training rows, dev rows and texts of nobody."""

from dataclasses import dataclass

import numpy as np

from moatelier.contracts import AdapterManifest, RouterProfile, TrainSpec
from serving.prototypes import Vectors, profile, unit

DIMS = 24


def manifest(suffix: str, labels: tuple[str, ...] = ("a", "b")) -> AdapterManifest:
    spec = TrainSpec(method="lora", base="tiny", dataset="d" * 64, suffix=suffix)
    return AdapterManifest(
        base="tiny",
        base_digest="b" * 64,
        modality="text",
        kind="classification",
        suffix=suffix,
        system="s",
        template_digest="t" * 64,
        stop_ids=(2,),
        labels=labels,
        first_layer=4,
        dataset="d" * 64,
        licence="Apache-2.0",
        spec=spec,
        versions={},
        files={},
    )


def around(centre: Vectors, rows: int, noise: float, random: np.random.Generator) -> Vectors:
    """Unit vectors `[rows, dims]` scattered around a direction."""
    return unit(centre + noise * random.normal(size=(rows, len(centre))))


def make_profile(suffix: str, vectors: Vectors, labels: list[str] | None = None) -> RouterProfile:
    given = labels or ["a"] * len(vectors)
    return profile(manifest(suffix), vectors, given, embedding="e", embedding_digest="e" * 64)


@dataclass(frozen=True)
class World:
    """Some domains: their profiles, and fresh rows of each drawn alike."""

    profiles: list[RouterProfile]
    centres: Vectors
    noise: float

    def rows(self, count: int, seed: int) -> tuple[Vectors, np.ndarray]:
        """`count` fresh rows of each domain, and the place of each one's owner among the sorted adapters."""
        random = np.random.default_rng(seed)
        order = sorted(range(len(self.profiles)), key=lambda n: self.profiles[n].adapter)
        vectors = [around(self.centres[n], count, self.noise, random) for n in order]
        return np.concatenate(vectors), np.repeat(np.arange(len(order)), count)


def world(domains: int, *, noise: float = 0.12, rows: int = 60, seed: int = 0, dims: int = DIMS) -> World:
    random = np.random.default_rng(seed)
    centres = unit(random.normal(size=(domains, dims)))
    profiles = [make_profile(f"domain-{n}", around(centres[n], rows, noise, random)) for n in range(domains)]
    return World(profiles, centres, noise)


def nobodys(count: int, seed: int, dims: int = DIMS) -> Vectors:
    """Directions that belong to no domain."""
    return unit(np.random.default_rng(seed).normal(size=(count, dims)))
