"""The router card on invented domains: what it says is what is so."""

import numpy as np
import pytest

from evals import router_card
from moatelier.contracts import HeldOut, RouterProfile
from moatelier.errors import DataError
from serving.prototypes import Vectors, pack
from tests.serving.clusters import World, make_profile, nobodys, world

STRANGERS = nobodys(100, 77)


def held_out(there: World, count: int = 30, right: float = 1.0, seed: int = 5) -> dict[str, HeldOut]:
    vectors, owners = there.rows(count, seed)
    ordered = sorted(profile.adapter for profile in there.profiles)
    good = np.arange(count) < round(right * count)
    return {
        name: HeldOut(adapter=name, vectors=pack(vectors[owners == place]), right=tuple(bool(g) for g in good))
        for place, name in enumerate(ordered)
    }


def tried(there: World, **more: float) -> tuple[router_card.Trial, list[RouterProfile]]:
    return router_card.trial(there.profiles, held_out(there, **more), STRANGERS), there.profiles  # type: ignore[arg-type]


def test_domains_that_lie_apart_reach_the_oracle() -> None:
    trial, profiles = tried(world(5), right=0.8)
    card = router_card.card(trial, profiles, profiles[0].adapter)
    assert (card.rows, card.out_rows, card.adapter) == (150, 250, profiles[0].adapter)
    assert card.oracle.point == pytest.approx(0.8) and card.share_of_oracle > 0.97
    assert card.best_single.point == pytest.approx(0.16) and 0.05 < card.random.point < 0.3
    assert card.ours.low < card.ours.point <= card.oracle.point and card.against_best_single.difference.low > 0
    assert card.auroc is not None and card.auroc > 0.99
    assert card.calibration.rows == 150 and card.latency_p95_ms >= card.latency_p50_ms > 0
    again = router_card.card(trial, profiles, profiles[0].adapter)
    same = {"latency_p50_ms": 0.0, "latency_p95_ms": 0.0}
    assert again.model_copy(update=same) == card.model_copy(update=same)


def test_a_row_that_goes_elsewhere_counts_as_wrong() -> None:
    trial, profiles = tried(world(6, noise=0.5))
    card = router_card.card(trial, profiles, profiles[0].adapter)
    assert card.oracle.point == 1 and card.ours.point == card.routed_right.point < 0.95
    assert card.routed_right.point + card.abstained.point <= 1


def test_one_adapter_alone_has_a_card() -> None:
    trial, profiles = tried(world(1))
    card = router_card.card(trial, profiles, profiles[0].adapter)
    assert card.auroc_near is None and card.out_rows == len(STRANGERS)
    assert card.random.point == card.best_single.point == card.oracle.point == 1
    assert card.ours.point > 0.9, "rows of its domain are not sent to the base"
    assert router_card.told_apart(trial, profiles[0].adapter) == (None, 1.0)


def test_twins_are_found_and_others_are_told_apart() -> None:
    there = world(3, noise=0.2)
    twin = make_profile("twin", there.rows(40, 9)[0][:40])
    first = sorted(profile.adapter for profile in there.profiles)[0]
    rows = held_out(there)
    rows[twin.adapter] = rows[first].model_copy(update={"adapter": twin.adapter})
    trial = router_card.trial([*there.profiles, twin], rows, STRANGERS)
    name, share = router_card.told_apart(trial, twin.adapter)
    assert name == first and share < 0.75
    for profile in there.profiles:
        if profile.adapter != first:
            assert router_card.told_apart(trial, profile.adapter)[1] > 0.9


def test_the_very_same_prototypes_are_told_apart_by_chance_alone() -> None:
    there = world(1)
    copy = there.profiles[0].model_copy(update={"adapter": "0" * 64})
    rows = held_out(there)
    rows[copy.adapter] = rows[there.profiles[0].adapter].model_copy(update={"adapter": copy.adapter})
    trial = router_card.trial([there.profiles[0], copy], rows, STRANGERS)
    assert router_card.told_apart(trial, copy.adapter) == (there.profiles[0].adapter, 0.5)


def test_no_dev_rows_no_card() -> None:
    there = world(2)
    none = {
        profile.adapter: HeldOut(adapter=profile.adapter, vectors=pack(_none(profile)), right=())
        for profile in there.profiles
    }
    with pytest.raises(DataError, match="dev row"):
        router_card.trial(there.profiles, none, STRANGERS)


def _none(profile: RouterProfile) -> Vectors:
    return np.zeros((0, profile.dims), dtype=np.float32)


def test_many_adapters_share_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_card, "MOST_ROWS", 40)
    trial, _ = tried(world(5))
    assert len(trial.scores) == 40 and set(np.bincount(trial.owners)) == {8}
