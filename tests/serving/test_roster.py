"""Which adapters `auto` may choose, from the signed records."""

import logging
from pathlib import Path

import pytest

from moatelier.contracts import Calibration
from moatelier.errors import IntegrityError
from moatelier.settings import settings
from modalities import catalogue
from serving import roster
from serving.router import BASE
from store import adapters, artifacts, db, records
from store.tables import RecordRow
from tests.api.conftest import make_adapter
from tests.modalities.packs import catalogue_file
from tests.routed import PARCEL, REFUND, embedded, join, sign_card


def names() -> set[str]:
    return set(roster.load("default").router.adapters)


def test_nobody_has_joined(home: Path) -> None:
    found = roster.load("default")
    assert (found.embedding, found.router.adapters) == (None, ())
    assert found.router.route(embedded(["anything"])[0]).choice == BASE


def test_only_who_joined_and_was_not_replaced_is_on_it(home: Path) -> None:
    first, second, third, out = (make_adapter("parcel", seed=seed) for seed in range(4))
    join(first, PARCEL)
    join(out, REFUND, joined=False)
    assert names() == {first.digest}
    join(second, PARCEL, replaces=first.digest)
    join(third, PARCEL, replaces=second.digest)
    assert names() == {third.digest}
    assert roster.load("other").router.adapters == ()


def test_a_successor_that_did_not_join_takes_no_place(home: Path) -> None:
    first, second = make_adapter("parcel", seed=1), make_adapter("parcel", seed=2)
    join(first, PARCEL)
    join(second, PARCEL, joined=False, replaces=first.digest)
    assert names() == {first.digest}


def test_an_adapter_on_another_base_is_not_on_it(home: Path) -> None:
    here = make_adapter("parcel", seed=1)
    foreign = adapters.register("default", here.manifest.model_copy(update={"base": "another-base"}), "task-2")
    join(here, PARCEL)
    join(foreign, REFUND)
    assert names() == {here.digest}


def test_the_calibration_is_the_newest_cards_of_who_is_on_it(home: Path) -> None:
    parcel, refund, out = (make_adapter("a", seed=seed) for seed in range(3))
    made = join(parcel, PARCEL)
    assert roster.load("default").router.calibration == Calibration()
    sign_card("default", (made, PARCEL))
    alone = roster.load("default").router.calibration
    assert alone.rows == len(PARCEL)
    sign_card("default", (made, PARCEL), (join(out, REFUND, joined=False), REFUND))
    assert roster.load("default").router.calibration == alone
    sign_card("default", (made, PARCEL), (join(refund, REFUND), REFUND))
    assert roster.load("default").router.calibration.rows == len(PARCEL) + len(REFUND)


def test_a_profile_that_is_gone_is_left_out_and_said_so(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    parcel, refund = make_adapter("parcel", seed=1), make_adapter("refund", seed=2)
    join(parcel, PARCEL)
    join(refund, REFUND)
    artifacts.remove(roster.entries("default")[0].profile)
    with caplog.at_level(logging.ERROR):
        assert names() == {refund.digest}
    assert parcel.digest in caplog.text


def test_an_adapter_that_enters_again_stands_as_it_did_last(home: Path) -> None:
    parcel, refund = make_adapter("parcel", seed=1), make_adapter("refund", seed=2)
    join(parcel, PARCEL, joined=False)
    join(refund, REFUND)
    assert names() == {refund.digest}
    join(parcel, PARCEL, run="run-2")
    assert names() == {parcel.digest, refund.digest}
    join(parcel, PARCEL, joined=False, run="run-3")
    assert names() == {refund.digest}
    assert len(records.list_records("default", parcel.digest)) == 3, "the old ones stay"


def test_a_champion_that_wins_its_place_back_stands_alone(home: Path) -> None:
    first, second = make_adapter("parcel", seed=1), make_adapter("parcel", seed=2)
    join(first, PARCEL)
    join(second, PARCEL, replaces=first.digest)
    join(first, PARCEL, replaces=second.digest, run="run-2")
    assert names() == {first.digest}


def test_profiles_of_another_embedding_model_are_left_out(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    named, files, here = (make_adapter(suffix, seed=seed) for seed, suffix in enumerate(("named", "files", "here")))
    join(named, PARCEL, embedding="another-model")
    join(files, PARCEL, embedding_digest="0" * 64)
    join(here, REFUND)
    found = roster.load("default")
    assert found.router.adapters == (here.digest,) and found.embedding == "all-minilm-l6-v2"
    assert found.foreign == {named.digest: "another-model", files.digest: "all-minilm-l6-v2"}
    assert "leaves out 2 adapters" in caplog.text


def test_the_files_of_the_embedding_model_decide_which_profiles_fit(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest profile says nothing where the model itself is at hand."""
    old, new = make_adapter("old", seed=1), make_adapter("new", seed=2)
    join(old, PARCEL)
    join(new, REFUND, embedding_digest="0" * 64)
    kept = roster.Rosters()
    assert kept.get(("default", "text")).router.adapters == (new.digest,)
    monkeypatch.setattr(catalogue, "is_pulled", lambda _: True)
    monkeypatch.setattr(catalogue, "base_digest", lambda _: "e" * 64)
    assert kept.get(("default", "text")).router.adapters == (old.digest,)


def test_a_setting_that_changes_leaves_nobody_on_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = catalogue_file(
        home / "more.yaml", {"id": "other", "kind": "embedding", "sources": [{"type": "path", "path": "/x"}]}
    )
    parcel = make_adapter("parcel", seed=1)
    join(parcel, PARCEL)
    assert names() == {parcel.digest}
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(extra))
    monkeypatch.setenv("MOATELIER_EMBEDDING", "other")
    settings.cache_clear()
    found = roster.load("default")
    assert (found.embedding, found.router.adapters, found.foreign) == (None, (), {parcel.digest: "all-minilm-l6-v2"})
    join(parcel, PARCEL, embedding="other", run="run-2")
    assert names() == {parcel.digest}


def test_a_calibration_for_another_models_vectors_is_not_used(home: Path) -> None:
    parcel, out = make_adapter("a", seed=1), make_adapter("b", seed=2)
    before = join(parcel, PARCEL, embedding_digest="0" * 64)
    sign_card("default", (before, PARCEL))
    made = join(parcel, PARCEL, run="run-2")
    assert roster.load("default").router.calibration == Calibration()
    sign_card("default", (made, PARCEL), (join(out, REFUND, joined=False), REFUND), run="run-2")
    assert roster.load("default").router.calibration.rows == len(PARCEL) + len(REFUND), "by who did not join itself"


def test_a_changed_record_is_refused(home: Path) -> None:
    parcel = make_adapter("parcel", seed=1)
    join(parcel, PARCEL, joined=False)
    with db.session() as opened:
        row = opened.get_one(RecordRow, ("default", "router_profile", f"{parcel.digest}@run-1"))
        row.body = {**row.body, "joined": True}
    with pytest.raises(IntegrityError, match="changed"):
        roster.load("default")


def test_a_roster_is_read_again_only_when_a_record_was_added(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    real = roster.load

    def counted(project: str, modality: str) -> roster.Roster:
        loads.append(project)
        return real(project, modality)

    monkeypatch.setattr(roster, "load", counted)
    kept = roster.Rosters()
    join(make_adapter("parcel", seed=1), PARCEL)
    assert kept.get(("default", "text")) is kept.get(("default", "text")) and loads == ["default"]
    join(make_adapter("refund", seed=2), REFUND)
    assert len(kept.get(("default", "text")).router.adapters) == 2 and loads == ["default"] * 2
