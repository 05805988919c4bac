"""A registered adapter enters the router, with canned jobs: what is asked, signed and told, and every way to fail."""

from pathlib import Path
from typing import Any

import pytest

from graphs import jobs, routing
from moatelier.contracts import RouterCard, RoutingSpec, SplitInfo
from moatelier.errors import DataError
from modalities import catalogue
from modalities.text import data
from serving import roster
from serving.prompts import with_references
from store import adapters, artifacts, datasets, records, tasks
from tests import fakes
from tests.api.running import wait_until
from tests.graphs.conftest import Player
from tests.graphs.planted import dataset

EMBEDDING = "all-minilm-l6-v2"
REQUEST = "Train a classifier that predicts intent from message, at least 80% accuracy, at most 1 trial"


def die_once_at(place: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whoever comes by this fault point first dies there; the list then holds its name."""
    died: list[str] = []

    def die(name: str) -> None:
        if name == place and not died:
            died.append(name)
            raise KeyboardInterrupt  # nothing of ours catches it, as nothing would catch SIGKILL

    monkeypatch.setattr(routing, "fault_point", die)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    return died


@pytest.fixture
def pulled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedding model is there; only the job, which is canned, would load it."""
    real = catalogue.is_pulled
    monkeypatch.setattr(catalogue, "is_pulled", lambda name: name == EMBEDDING or real(name))
    real_digest = catalogue.base_digest
    monkeypatch.setattr(catalogue, "base_digest", lambda name: "e" * 64 if name == EMBEDDING else real_digest(name))


def task(player: Player, tmp_path: Path, more: str = "") -> tasks.Task:
    player.say(REQUEST + more, train=player.upload(fakes.support_csv(tmp_path / "support.csv")))
    player.approve()
    return player.ended()


def asked(player: Player) -> list[RoutingSpec]:
    return [RoutingSpec.model_validate(spec) for kind, spec in player.jobs.ran if kind == "routing"]


def test_a_promoted_adapter_joins_and_its_card_is_signed(player: Player, pulled: None, tmp_path: Path) -> None:
    ended = task(player, tmp_path)
    assert ended.status == "reached" and ended.result is not None
    digest = ended.result["adapter"]
    [entry] = roster.entries("default")
    assert entry.adapter == digest and entry.joined and entry.replaces is None
    assert roster.load("default").router.adapters == (digest,)
    card = RouterCard.model_validate(records.newest("default", "router_card", digest).body)
    assert card.adapters == (digest,) and roster.load("default").router.calibration == card.calibration
    [spec] = asked(player)
    assert spec.candidate == digest and spec.known == () and spec.build[0].dataset
    [told] = player.events("routing")
    assert told.body["status"] == "on" and told.body["card"]["rows"] == card.rows
    [decision] = [e for e in player.events("decision") if e.body.get("phase") == "routing"]
    assert decision.body["agent"] == "router" and decision.body["reason"] == entry.reason


def test_a_successor_replaces_its_predecessor(player: Player, pulled: None, tmp_path: Path) -> None:
    first, second = task(player, tmp_path), task(player, tmp_path, ", seed 7")
    assert first.result is not None and second.result is not None
    assert asked(player)[1].known == (), "whom it replaces is no rival"
    assert roster.load("default").router.adapters == (second.result["adapter"],)


def test_another_domain_is_weighed_against_those_before(player: Player, pulled: None, tmp_path: Path) -> None:
    first, second = task(player, tmp_path), task(player, tmp_path, ", call it other")
    assert first.result is not None and second.result is not None
    assert [known.adapter for known in asked(player)[1].known] == [first.result["adapter"]]
    assert len(roster.load("default").router.adapters) == 2


def test_who_cannot_be_told_from_another_stays_out(player: Player, pulled: None, tmp_path: Path) -> None:
    player.jobs.told_apart = 0.5
    ended = task(player, tmp_path)
    assert ended.status == "reached"
    [entry] = roster.entries("default")
    assert not entry.joined and "cannot be told" in entry.reason
    assert roster.load("default").router.adapters == ()


def test_rows_that_show_others_answers_are_an_aggregators(home: Path) -> None:
    """Questions to `auto` come without them, whatever domain they are of."""
    plain = dataset()
    card = datasets.get_card(plain)
    turns = with_references([{"role": "user", "content": "Where is it?"}], ["Here.", "There."])
    row = data.Row(1, (*turns, {"role": "assistant", "content": "Here."}))
    train = SplitInfo(rows=1, artifact=artifacts.put_bytes(data.write_rows([row])))
    shown = artifacts.put_json(card.model_copy(update={"splits": card.splits | {"train": train}}))
    assert [routing._edits(digest) for digest in (plain, shown, "0" * 64)] == [False, True, False]


def test_what_the_gate_did_not_promote_stays_out(player: Player, pulled: None, tmp_path: Path) -> None:
    player.jobs.score = 0.5
    assert task(player, tmp_path).status == "not_reached"
    [entry] = roster.entries("default")
    assert not entry.joined and "did not promote" in entry.reason


def test_without_the_embedding_model_the_task_ends_well_and_says_what_to_do(player: Player, tmp_path: Path) -> None:
    ended = task(player, tmp_path)
    assert ended.status == "reached" and ended.error is None
    [told] = player.events("routing")
    assert (told.body["status"], told.body["code"]) == ("off", "model_unavailable")
    assert "moatelier models pull all-minilm-l6-v2" in told.body["remedy"]
    assert asked(player) == [] and roster.entries("default") == []


def test_the_next_registration_enters_who_was_left_out(player: Player, tmp_path: Path, request: Any) -> None:
    first = task(player, tmp_path)
    request.getfixturevalue("pulled")
    second = task(player, tmp_path, ", call it other")
    assert first.result is not None and second.result is not None
    both = [second.result["adapter"], first.result["adapter"]]
    assert [source.adapter for source in asked(player)[0].build] == both
    assert set(roster.load("default").router.adapters) == set(both)


def test_under_another_embedding_model_the_next_registration_makes_all_profiles_anew(
    player: Player, pulled: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = task(player, tmp_path), task(player, tmp_path, ", seed 7")
    assert first.result is not None and second.result is not None
    monkeypatch.setattr(catalogue, "base_digest", lambda _: "9" * 64)
    monkeypatch.setattr(player.jobs, "embedding_digest", "9" * 64)
    assert roster.load("default").router.adapters == ()
    third = task(player, tmp_path, ", call it other")
    assert third.result is not None
    both = [third.result["adapter"], second.result["adapter"]]
    spec = asked(player)[-1]
    assert [source.adapter for source in spec.build] == both and spec.known == ()
    assert set(roster.load("default").router.adapters) == set(both), "and who was replaced does not come back"


@pytest.mark.parametrize("fault", [DataError("No dev row.", remedy="Give more."), RuntimeError("a bug")])
def test_a_job_that_fails_undoes_nothing(
    player: Player, pulled: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(_: Any) -> Any:
        raise fault

    monkeypatch.setattr(player.jobs, "_routing", fail)
    ended = task(player, tmp_path)
    assert ended.status == "reached" and ended.result is not None and ended.result["promoted"]
    [told] = player.events("routing")
    assert told.body["status"] == "off" and fault.args[0] in told.body["what"]
    assert adapters.get("default", ended.name).aliases == (ended.name,)


@pytest.mark.parametrize("place", ["routing.before_join", "routing.after_join"])
def test_a_node_that_runs_again_asks_for_the_same_job_and_signs_nothing_new(
    player: Player, pulled: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Killed after its own entry was signed, say: by then that is there, and the spec must not show it."""
    died = die_once_at(place, monkeypatch)
    player.say(REQUEST, train=player.upload(fakes.support_csv(tmp_path / "support.csv")))
    player.approve()
    wait_until(lambda: bool(died), timeout_s=30)
    current = player.task()
    assert current is not None and not current.ended
    jobs.submit_run(tasks.list_runs("default", current.thread)[0].id)
    jobs.submit_run(tasks.list_runs("default", current.thread)[-1].id)
    ended = player.ended()
    assert ended.status == "reached"
    first, second = asked(player)
    assert first == second
    assert len(records.list_records("default", first.candidate)) == 5  # dev, select, gate, profile, card
    assert len(player.events("routing")) == 1
