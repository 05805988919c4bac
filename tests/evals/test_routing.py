"""The routing job on a curated dataset, with a stand-in for the embedding model."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evals import routing
from moatelier.contracts import (
    HeldOut,
    KnownProfile,
    ProfileSource,
    RouterProfile,
    RoutingResult,
    RoutingSpec,
)
from moatelier.errors import Cancelled, ModelUnavailable, NotFound
from moatelier.ids import canonical_json
from moatelier.job import Job
from modalities import catalogue, embedding
from serving.prototypes import Vectors, unpack
from serving.router import Router
from store import artifacts
from tests.api.conftest import make_adapter
from tests.api.fake_engine import DIMS, vector
from tests.evals.conftest import Curated
from tests.fakes import INTENTS


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Embeds by the words alone; the list fills with what was embedded."""
    seen: list[str] = []

    def embed(given: Sequence[str], _: str) -> Vectors:
        seen.extend(given)
        return np.stack([vector(text) for text in given]) if given else np.zeros((0, DIMS), dtype=np.float32)

    monkeypatch.setattr(embedding, "embed", embed)
    monkeypatch.setattr(catalogue, "base_digest", lambda _: "e" * 64)
    return seen


def run(tmp_path: Path, spec: RoutingSpec) -> RoutingResult:
    job = Job(tmp_path / f"routing-{spec.digest[:8]}", quiet=True)
    return RoutingResult.model_validate(routing.work(spec.model_dump(mode="json"), job))


def answers(curated: Curated, wrong: int) -> str:
    """An evaluation's answers on the dev rows, the first few of them wrong."""
    lines = [json.loads(line) for line in artifacts.get_bytes(str(curated.card.splits["dev"].artifact)).splitlines()]
    kept = [
        {"id": row["id"], "truth": row["label"], "answer": "nonsense" if place < wrong else f" {row['label']}\n"}
        for place, row in enumerate(lines)
    ]
    return artifacts.put_bytes(b"".join(canonical_json(line) + b"\n" for line in kept))


def test_a_profile_a_card_and_what_the_agent_needs(curated: Curated, texts: list[str], tmp_path: Path) -> None:
    adapter = make_adapter()
    source = ProfileSource(adapter=adapter.digest, dataset=curated.digest, answers=answers(curated, wrong=3))
    spec = RoutingSpec(candidate=adapter.digest, build=(source,), embedding="all-minilm-l6-v2")
    found = run(tmp_path, spec)
    [built] = found.built
    assert (built.adapter, built.rows, built.held_out_rows, built.twin) == (adapter.digest, 45, 12, None)
    profile = RouterProfile.model_validate(artifacts.get_json(built.profile))
    assert (profile.adapter, profile.rows, profile.dims) == (adapter.digest, 45, DIMS)
    held = HeldOut.model_validate(artifacts.get_json(built.held_out))
    assert sum(held.right) == 9 and unpack(held.vectors, DIMS).shape == (12, DIMS)
    assert found.card.oracle.point == 9 / 12 and found.card.adapters == (adapter.digest,)
    assert artifacts.get_json(found.card.digest)["rows"] == 12
    router = Router([profile], found.card.calibration)
    assert router.route(vector("my parcel has not come, number 3")).choice == adapter.digest


def test_only_what_the_person_said_on_train_and_dev_rows_is_read(
    curated: Curated, texts: list[str], tmp_path: Path
) -> None:
    adapter = make_adapter()
    source = ProfileSource(adapter=adapter.digest, dataset=curated.digest)
    run(tmp_path, RoutingSpec(candidate=adapter.digest, build=(source,), embedding="all-minilm-l6-v2"))
    rows = [text for text in texts if ", number " in text]
    numbers = sorted(int(text.split(", number ")[1].split()[0]) for text in rows)
    assert numbers == [*range(45), *range(100, 112)], "no row of select and none that is locked"
    assert not [text for text in texts if "Name the category" in text or text in INTENTS]


def test_it_is_weighed_against_those_that_are_known(curated: Curated, texts: list[str], tmp_path: Path) -> None:
    first, second = make_adapter(seed=1), make_adapter(seed=2)
    [known] = run(tmp_path, _spec(first.digest, curated)).built
    spec = _spec(second.digest, curated).model_copy(
        update={"known": (KnownProfile(adapter=known.adapter, profile=known.profile, held_out=known.held_out),)}
    )
    found = run(tmp_path, spec)
    [built] = found.built
    assert (built.twin, built.told_apart) == (first.digest, 0.5), "the same rows: told apart by chance alone"
    assert set(found.card.adapters) == {first.digest, second.digest} and found.card.rows == 24


def _spec(adapter: str, curated: Curated) -> RoutingSpec:
    source = ProfileSource(adapter=adapter, dataset=curated.digest)
    return RoutingSpec(candidate=adapter, build=(source,), embedding="all-minilm-l6-v2")


def test_one_of_the_backlog_whose_data_is_gone_is_left_out(curated: Curated, texts: list[str], tmp_path: Path) -> None:
    old, new = make_adapter(seed=1), make_adapter(seed=2)
    gone = ProfileSource(adapter=old.digest, dataset="9" * 64)
    spec = _spec(new.digest, curated)
    found = run(tmp_path, spec.model_copy(update={"build": (*spec.build, gone)}))
    assert [built.adapter for built in found.built] == [new.digest]
    with pytest.raises(NotFound):
        run(tmp_path, spec.model_copy(update={"candidate": old.digest, "build": (gone,)}))


def test_a_large_training_set_is_read_in_part(
    curated: Curated, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "TRAIN_ROWS", 20)
    [built] = run(tmp_path, _spec(make_adapter().digest, curated)).built
    assert built.rows == 20


@pytest.mark.parametrize("place", ["routing.running", "routing.written"])
def test_a_killed_job_begins_again_and_makes_the_same(
    curated: Curated, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    spec = _spec(make_adapter().digest, curated)
    passed: list[str] = []

    def die_once(name: str) -> None:
        passed.append(name)
        if passed.count(place) == 1 and name == place:
            raise KeyboardInterrupt

    monkeypatch.setattr(routing, "fault_point", die_once)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, spec)
    again, fresh = run(tmp_path, spec), run(tmp_path / "fresh", spec)
    assert again.built == fresh.built and again.card.calibration == fresh.card.calibration


def test_it_stops_when_asked_and_says_when_the_model_is_missing(
    curated: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _spec(make_adapter().digest, curated)
    with pytest.raises(ModelUnavailable, match="models pull all-minilm-l6-v2"):
        run(tmp_path, spec)
    monkeypatch.setattr(catalogue, "base_digest", lambda _: "e" * 64)
    job = Job(tmp_path / "stopped", quiet=True)
    job.stop_reason = "SIGTERM"
    with pytest.raises(Cancelled):
        routing.work(spec.model_dump(mode="json"), job)
