"""Which adapters `auto` may choose, from the signed records."""

import logging
from pathlib import Path

import pytest

from moatelier.contracts import Calibration
from moatelier.errors import IntegrityError
from serving import roster
from serving.router import BASE
from store import adapters, artifacts, db, records
from store.tables import RecordRow
from tests.api.conftest import make_adapter
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


def test_profiles_of_an_older_embedding_model_are_left_out(home: Path) -> None:
    old, new = make_adapter("old", seed=1), make_adapter("new", seed=2)
    made = join(old, PARCEL)
    entry = roster.entries("default")[0]
    stale = artifacts.put_json(made.model_copy(update={"embedding_digest": "0" * 64}))
    with db.session() as opened:
        opened.delete(opened.get_one(RecordRow, ("default", "router_profile", old.digest)))
    records.sign("default", "router_profile", old.digest, old.digest, entry.model_copy(update={"profile": stale}))
    join(new, REFUND)
    assert names() == {new.digest}


def test_a_changed_record_is_refused(home: Path) -> None:
    parcel = make_adapter("parcel", seed=1)
    join(parcel, PARCEL, joined=False)
    with db.session() as opened:
        row = opened.get_one(RecordRow, ("default", "router_profile", parcel.digest))
        row.body = {**row.body, "joined": True}
    with pytest.raises(IntegrityError, match="changed"):
        roster.load("default")


def test_a_roster_is_read_again_only_when_a_record_was_added(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    real = roster.load

    def counted(project: str) -> roster.Roster:
        loads.append(project)
        return real(project)

    monkeypatch.setattr(roster, "load", counted)
    kept = roster.Rosters()
    join(make_adapter("parcel", seed=1), PARCEL)
    assert kept.get("default") is kept.get("default") and loads == ["default"]
    join(make_adapter("refund", seed=2), REFUND)
    assert len(kept.get("default").router.adapters) == 2 and loads == ["default"] * 2
