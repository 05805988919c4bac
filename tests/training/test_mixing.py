"""Mixing adapters: what comes out is what the method says, and what cannot be mixed is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from moatelier.contracts import Mixing
from moatelier.errors import InvalidRequest, NotFound
from moatelier.job import Job
from modalities.bundle import bundle_folder, read_manifest
from serving.engine import TextEngine
from serving.lora import read_config, read_tensors, scaled_rank
from tests.training.rows import dataset, rows, spec
from training import run
from training.mixing import mix


@pytest.fixture
def card(tiny: str) -> str:
    return dataset(rows(30), rows(9, start=30))


def train(home: Path, card: str, **changes: Any) -> str:
    fields = spec(card, epochs=1.0, **changes)
    result = run.work(fields.model_dump(), Job(home / "jobs" / fields.digest[:8], quiet=True))
    return str(result["bundle"])


def deltas(bundle: str) -> dict[str, torch.Tensor]:
    """Layer -> what the adapter adds to its weight."""
    folder = bundle_folder(bundle)
    tensors, config = read_tensors(folder), read_config(folder)
    names = {name.rsplit(".lora_", 1)[0] for name in tensors}
    scale = scaled_rank(config, "")[1]
    return {n: scale * tensors[f"{n}.lora_B.weight"] @ tensors[f"{n}.lora_A.weight"] for n in names}


def mixed(method: str, parents: list[str], weights: tuple[float, ...] = (0.7, 0.5), **more: Any) -> str:
    return mix(Mixing(method=method, parents=tuple(parents), weights=weights, **more), "both")


@pytest.fixture
def parents(home: Path, card: str) -> list[str]:
    return [train(home, card, seed=1), train(home, card, seed=2, alpha=8.0)]


def test_cat_is_the_weighted_sum_of_the_changes(home: Path, card: str) -> None:
    # Parents of other ranks, scales and layers: whatever PEFT copies from the first one alone would show.
    wide = train(home, card, layers="all", rank=8, seed=2)
    narrow = train(home, card, rank=4, seed=1)
    bundle = mixed("cat", [narrow, wide])
    ours, first, second = deltas(bundle), deltas(narrow), deltas(wide)
    assert ours.keys() == second.keys() > first.keys()
    for name, delta in ours.items():
        expected = 0.7 * first.get(name, torch.zeros_like(delta)) + 0.5 * second[name]
        assert (delta - expected).abs().max() < 1e-5, name
    manifest = read_manifest(bundle_folder(bundle))
    assert (manifest.spec.rank, manifest.first_layer, manifest.suffix) == (12, 0, "both")
    assert manifest.mixing is not None and manifest.mixing.parents == (narrow, wide)


def test_svd_of_the_full_rank_is_the_sum_too(parents: list[str]) -> None:
    bundle = mixed("svd", parents, rank=8)
    first, second = map(deltas, parents)
    for name, delta in deltas(bundle).items():
        assert (delta - 0.7 * first[name] - 0.5 * second[name]).abs().max() < 1e-5, name


def test_an_adapter_less_itself_is_nothing_but_twice_its_weight_is(home: Path, card: str, parents: list[str]) -> None:
    bundle = mixed("cat", parents, (-1.0, 2.0))
    first, second = map(deltas, parents)
    assert all(torch.allclose(d, 2 * second[n] - first[n], atol=1e-5) for n, d in deltas(bundle).items())


METHODS = {
    "linear": {},
    "ties": {"density": 0.5},
    "ties_svd": {"density": 0.5},
    "dare_linear": {"density": 0.5},
    "dare_linear_svd": {"density": 0.5},
    "dare_ties": {"density": 0.5},
    "dare_ties_svd": {"density": 0.5},
    "magnitude_prune": {"density": 0.5},
    "magnitude_prune_svd": {"density": 0.5},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_bundle_that_the_engine_serves(parents: list[str], method: str) -> None:
    bundle = mixed(method, parents, **METHODS[method])
    assert bundle == mixed(method, parents, **METHODS[method])
    engine = TextEngine("tiny", "fp32")
    engine.load_adapter("both", bundle_folder(bundle))
    ids = [1, 5, 9, 13]
    changed = engine.logits(ids, adapter="both") - engine.logits(ids, adapter=None)
    assert changed.abs().max() > 1e-4


def test_dare_drops_by_its_seed(parents: list[str]) -> None:
    first, again, other = (mixed("dare_linear", parents, density=0.5, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_a_trained_adapter_has_the_digest_that_it_had_before_there_were_mixed_ones(parents: list[str]) -> None:
    manifest = read_manifest(bundle_folder(parents[0]))
    assert "mixing" not in manifest.model_dump(mode="json") and manifest.mixing is None


@pytest.mark.parametrize(
    ("method", "weights", "more", "where"),
    [
        ("ties", (1.0, 1.0), {}, "density"),
        ("cat", (1.0, 1.0), {"density": 0.5}, "density"),
        ("cat", (1.0,), {}, "weights"),
        ("cat", (1.0, 0.0), {}, "weights"),
        ("cat", (1.0, float("nan")), {}, "weights"),
        ("cat", (1.0, 1.0), {"rank": 4}, "rank"),
    ],
)
def test_what_does_not_fit_the_method_is_refused(
    parents: list[str], method: str, weights: tuple[float, ...], more: dict[str, Any], where: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        mixed(method, parents, weights, **more)
    assert caught.value.where == where and caught.value.remedy


def test_parents_that_do_not_fit_each_other_are_refused(home: Path, card: str, parents: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="one rank"):
        mixed("linear", [parents[0], train(home, card, rank=8)])
    with pytest.raises(InvalidRequest, match="acts on all tokens"):
        mixed("cat", [parents[0], train(home, card, method="alora")])
    with pytest.raises(InvalidRequest, match="named twice"):
        mixed("cat", [parents[0], parents[0]])
    with pytest.raises(NotFound):
        mixed("cat", [parents[0], "0" * 64])


def test_parents_of_other_bases_or_kinds_are_refused(
    home: Path, card: str, parents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_manifest(bundle_folder(parents[0]))
    for field, value in (("base_digest", "1" * 64), ("kind", "chat"), ("modality", "audio")):
        other = first.model_copy(update={field: value, "suffix": "other"})
        told = iter([first, other])
        monkeypatch.setattr("training.mixing.read_manifest", lambda _, told=told: next(told))
        with pytest.raises(InvalidRequest, match=f"differ in {field.replace('_', ' ')}") as caught:
            mixed("cat", parents)
        assert caught.value.where == "other"
