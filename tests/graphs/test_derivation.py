"""What is made of adapters: the same wish is made once, what failed can be tried again, and all of it is signed."""

from pathlib import Path

import pytest

from graphs import derivation, jobs
from moatelier.contracts import ExportSpec, Mixing, MixSpec, Parity, Retention
from moatelier.errors import Conflict, InvalidRequest, NotFound, ResourceExhausted
from modalities.exported import export_folder
from store import adapters, records, tasks
from tests.api.conftest import make_adapter
from tests.api.running import wait_until
from tests.graphs.conftest import Player


@pytest.fixture
def parents(player: Player) -> tuple[str, str]:
    first, second = (make_adapter(f"task-{seed}", seed=seed).digest for seed in (0, 1))
    return first, second


def wish(parents: tuple[str, ...], name: str = "both", seed: int = 0) -> MixSpec:
    return MixSpec(suffix=name, mixing=Mixing(method="cat", parents=parents, weights=(0.5, 0.5), seed=seed))


def ended(run: tasks.Run) -> tasks.Run:
    wait_until(lambda: tasks.find_run(run.id).ended, timeout_s=30)
    return tasks.find_run(run.id)


def test_a_mixed_adapter_is_registered_named_and_its_retention_signed(player: Player, parents: tuple[str, str]) -> None:
    run = ended(derivation.mix("default", wish(parents)))
    assert run.status == "success", run.error
    found = adapters.get("default", "both")
    assert found.manifest.mixing == wish(parents).mixing and found.model_id.split(":")[2] == "both"
    signed = records.newest("default", "retention", found.digest)
    assert derivation.made(run) == signed.body
    assert [line.parent for line in Retention.model_validate(signed.body).table] == list(parents)


def test_the_same_wish_is_one_run_and_another_a_second(player: Player, parents: tuple[str, str]) -> None:
    first = ended(derivation.mix("default", wish(parents)))
    assert derivation.mix("default", wish(parents)).id == first.id
    assert [kind for kind, _ in player.jobs.ran] == ["mix"]
    other = ended(derivation.mix("default", wish(parents, name="other", seed=1)))
    assert other.id != first.id and len(player.jobs.ran) == 2


def test_what_failed_is_tried_again(player: Player, parents: tuple[str, str]) -> None:
    player.jobs.fail["mix"] = ResourceExhausted("The disk is full.")
    failed = ended(derivation.mix("default", wish(parents)))
    assert failed.status == "error" and failed.error and failed.error["code"] == "resource_exhausted"
    assert derivation.made(failed) is None
    player.jobs.fail.clear()
    again = ended(derivation.mix("default", wish(parents)))
    assert again.status == "success" and again.id != failed.id and adapters.get("default", "both")


def test_a_name_that_is_taken_or_none_is_refused_before_anything_is_done(
    player: Player, parents: tuple[str, str]
) -> None:
    adapters.set_alias("default", "mine", parents[0], fence=7, actor="test")
    with pytest.raises(Conflict, match="`mine` already names"):
        derivation.mix("default", wish(parents, name="mine"))
    for name in ("auto", "Two Words", "", "a/b"):
        with pytest.raises(InvalidRequest, match="cannot be the name"):
            derivation.mix("default", wish(parents, name=name))
    assert player.jobs.ran == [] and adapters.alias_of("default", "mine") == (parents[0], 7)


def test_an_export_is_signed_found_again_and_made_anew_where_it_was_deleted(
    player: Player, parents: tuple[str, str]
) -> None:
    spec = ExportSpec(bundle=parents[0], format="gguf", numbers="f16")
    first = ended(derivation.export("default", spec))
    parity = Parity.model_validate(derivation.made(first))
    assert Parity.model_validate(records.newest("default", "parity", parents[0]).body) == parity
    assert derivation.export("default", spec).id == first.id
    (export_folder(spec) / "model.bin").unlink()
    again = ended(derivation.export("default", spec))
    assert again.id != first.id and again.status == "success" and (export_folder(spec) / "model.bin").exists()


def test_a_run_is_told_to_whom_it_belongs(player: Player, parents: tuple[str, str]) -> None:
    run = ended(derivation.export("default", ExportSpec(bundle=parents[0], format="peft")))
    assert derivation.of_adapter("default", run.id, "export", parents[0]).id == run.id
    for project, job, digest in (("other", "export", parents[0]), ("default", "mix", None), ("default", "export", "0")):
        with pytest.raises(NotFound):
            derivation.of_adapter(project, run.id, job, digest)  # type: ignore[arg-type]  # what a client may send


def test_a_mixed_adapter_stays_out_of_auto(player: Player, parents: tuple[str, str], tmp_path: Path) -> None:

    ended(derivation.mix("default", wish(parents)))
    entered = ended(jobs.enter("default", adapters.get("default", "both").digest))
    assert entered.error and "mixed of others" in entered.error["what"]
