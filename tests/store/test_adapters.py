"""The register of adapters: fenced aliases, near names."""

import threading
from pathlib import Path

import pytest

from moatelier.contracts import AdapterManifest
from moatelier.errors import Conflict, InvalidRequest, NotFound
from store import adapters, audit, db
from store.tables import AdapterRow


def _another(manifest: AdapterManifest, first_layer: int) -> AdapterManifest:
    return manifest.model_copy(update={"first_layer": first_layer})


def test_registering_twice_is_registering_once(store: Path, manifest: AdapterManifest) -> None:
    record = adapters.register("p", manifest, "task-1")
    assert record.digest == manifest.digest and record.manifest == manifest and record.aliases == ()
    assert record.model_id == f"ft:tiny:support:{manifest.digest[:8]}"
    assert adapters.register("p", manifest, "task-2") == record
    assert adapters.list_adapters("p") == [record]
    assert [line.action for line in audit.read("p")] == ["adapter.register"]
    assert adapters.register("other", manifest, "task-3").task == "task-3"


def test_an_adapter_has_three_names(store: Path, manifest: AdapterManifest) -> None:
    record = adapters.register("p", manifest, "task-1")
    adapters.set_alias("p", "champion", record.digest, fence=1, actor="router")
    for name in (record.digest, record.model_id, "champion"):
        found = adapters.get("p", name)
        assert found.digest == record.digest and found.aliases == ("champion",)
        with pytest.raises(NotFound):
            adapters.get("other", name)


def test_an_unknown_name_lists_near_ones(store: Path, manifest: AdapterManifest) -> None:
    with pytest.raises(NotFound, match="No adapter has been made"):
        adapters.get("p", "support")
    record = adapters.register("p", manifest, "task-1")
    adapters.set_alias("p", "support-desk", record.digest, fence=1, actor="router")
    with pytest.raises(NotFound, match="Did you mean support-desk"):
        adapters.get("p", "suport-desk")
    with pytest.raises(NotFound, match=record.model_id):
        adapters.get("p", record.model_id[:-1] + "x")
    with pytest.raises(NotFound, match="adapters list"):
        adapters.get("p", "zzzzqqqq")


def test_a_shared_model_id_is_refused(store: Path, manifest: AdapterManifest) -> None:
    record = adapters.register("p", manifest, "task-1")
    with db.session() as opened:  # the same first eight digits, which no one can provoke on purpose in a test
        row = opened.get_one(AdapterRow, ("p", record.digest))
        twin = {"project": "p", "digest": record.digest[:8] + "0" * 56, "model_id": row.model_id, "suffix": "support"}
        opened.add(AdapterRow(**twin, base="tiny", task="task-2", manifest=row.manifest))
    with pytest.raises(Conflict, match="whole digest"):
        adapters.get("p", record.model_id)
    assert adapters.get("p", record.digest).task == "task-1"


def test_a_fence_only_grows(store: Path, manifest: AdapterManifest) -> None:
    old = adapters.register("p", manifest, "task-1").digest
    new = adapters.register("p", _another(manifest, 5), "task-2").digest
    assert adapters.alias_of("p", "champion") is None
    adapters.set_alias("p", "champion", old, fence=3, actor="router")
    adapters.set_alias("p", "champion", old, fence=3, actor="router")  # a node that runs again
    assert adapters.alias_of("p", "champion") == (old, 3)
    for fence in (3, 2):
        with pytest.raises(Conflict, match="too late"):
            adapters.set_alias("p", "champion", new, fence=fence, actor="router")
    adapters.set_alias("p", "champion", new, fence=4, actor="router")
    assert adapters.alias_of("p", "champion") == (new, 4)
    moves = [line.body for line in audit.read("p") if line.action == "alias.set"]
    assert moves == [{"digest": old, "before": None, "fence": 3}, {"digest": new, "before": old, "fence": 4}]
    assert adapters.get("p", old).aliases == () and adapters.get("p", new).aliases == ("champion",)
    assert adapters.alias_of("other", "champion") is None
    assert audit.verify() == 4


def test_one_of_many_writers_with_the_same_fence_wins(store: Path, manifest: AdapterManifest) -> None:
    digests = [adapters.register("p", _another(manifest, layer), "task").digest for layer in range(4)]
    outcomes: list[str] = []

    def point(digest: str) -> None:
        try:
            adapters.set_alias("p", "champion", digest, fence=1, actor="router")
            outcomes.append(digest)
        except Conflict:
            outcomes.append("late")

    threads = [threading.Thread(target=point, args=(digest,)) for digest in digests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if outcome != "late"]
    assert len(outcomes) == 4 and len(winners) == 1
    assert adapters.alias_of("p", "champion") == (winners[0], 1)


def test_an_alias_points_at_something(store: Path, manifest: AdapterManifest) -> None:
    with pytest.raises(NotFound, match="Register it first"):
        adapters.set_alias("p", "champion", manifest.digest, fence=1, actor="router")
    digest = adapters.register("p", manifest, "task-1").digest
    with pytest.raises(NotFound):
        adapters.set_alias("other", "champion", digest, fence=1, actor="router")
    for alias in ("auto", "ft:tiny:support:1", "moa/best", "", "a b", "x" * 65):
        with pytest.raises(InvalidRequest):
            adapters.set_alias("p", alias, digest, fence=1, actor="router")
    adapters.set_alias("p", "automatic", digest, fence=1, actor="router")


def test_bundles_lie_in_the_data_directory(home: Path) -> None:
    assert adapters.bundle_path("a" * 64) == home / "adapters" / ("a" * 64)
    with pytest.raises(NotFound):
        adapters.bundle_path("../../etc")
