"""A task chooses its base among those that are served, by what they make of its rows; a named one is only commented."""

import json
from pathlib import Path
from typing import Any

import pytest

from evals import vault
from graphs import curation
from moatelier.contracts import TrainSpec
from moatelier.settings import settings
from modalities import pull
from modalities.text.rows import SYSTEM
from store import datasets
from tests import fakes
from tests.graphs.conftest import Player

WORDS = "Train a classifier that predicts intent from message, at least 80% accuracy, 1 trial"


@pytest.fixture
def better(player: Player, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A second base of the same shape that knows such rows; its licence is another."""
    turns = [
        [
            {"role": "system", "content": SYSTEM["classification"]},
            {"role": "user", "content": f"{text} since 3 days"},
            {"role": "assistant", "content": intent},
        ]
        for intent, texts in fakes.INTENTS.items()
        for text in texts
    ]
    folder = fakes.taught_llama(tmp_path / "better", tiny_folder, turns)
    entry = {"id": "better", "licence": "Custom-1.0", "sources": [{"type": "path", "path": str(folder)}]}
    file = fakes.tiny_catalogue(player.home / "two.yaml", tiny_folder, None, entry)
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(file))
    monkeypatch.setenv("MOATELIER_MORE_BASES", '["better"]')
    settings.cache_clear()
    pull.pull("better")
    return "better"


def planned(player: Player, tmp_path: Path, words: str = WORDS) -> dict[str, Any]:
    player.say(words, train=player.upload(fakes.support_csv(tmp_path / "support.csv")))
    return player.pending()


def line(value: dict[str, Any], base: str) -> dict[str, Any]:
    return next(dict(each) for each in value["forecast"]["bases"] if each["base"] == base)


def test_the_better_base_is_chosen_with_the_reason_and_trained(player: Player, better: str, tmp_path: Path) -> None:
    value = planned(player, tmp_path)
    base = value["plan"]["base"]
    assert base["value"] == better and base["source"] == "inferred" and "tiny" in base["reason"]
    ours, others = line(value, "tiny"), line(value, better)
    assert others["loss"] < ours["loss"] and others["place"] == 1 and ours["place"] == 2
    assert others["seconds"] > 0 and others["peak_bytes"] > 0 and others["rows"] == bases_rows(value)
    assert "not pulled" in line(value, "smollm2-135m-instruct")["refused"] or (
        "not served" in line(value, "smollm2-135m-instruct")["refused"]
    )
    told = [event.body for event in player.events("decision") if "bases" in (event.body["decision"] or {})]
    assert told[0]["decision"]["base"] == better and told[0]["reason"] == base["reason"]
    player.approve()
    task = player.ended()
    assert task.status == "reached"
    trained = TrainSpec.model_validate(next(spec for kind, spec in player.jobs.ran if kind == "train"))
    assert trained.base == better
    page = (player.home / "reports" / task.id / "index.html").read_text()
    assert "The bases there were" in page and "Custom-1.0" in page


def bases_rows(value: dict[str, Any]) -> int:
    return min(64, value["forecast"]["rows"])


def test_no_row_that_chose_the_base_is_locked(
    player: Player, better: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = planned(player, tmp_path)
    weighed = set(value["forecast"]["weighed"])
    assert len(weighed) == bases_rows(value)
    locked: list[set[int]] = []
    lock = vault.lock

    def watched(rows: bytes, digest: str) -> None:
        locked.append({json.loads(row)["row"] for row in rows.splitlines()})
        lock(rows, digest)

    monkeypatch.setattr(vault, "lock", watched)
    player.approve()
    player.ended()
    assert locked and locked[0] and not locked[0] & weighed


def test_rows_that_something_was_chosen_by_are_taken_out_of_the_locked_ones(
    player: Player, better: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the split turned out otherwise later."""
    planned(player, tmp_path)
    divide, given = curation.divided, []

    def otherwise(*arguments: Any) -> Any:
        splits = divide(*arguments)
        given.append(len(splits["test"]))
        splits["train"], splits["test"] = splits["train"][12:], [*splits["train"][:12], *splits["test"]]
        return splits

    monkeypatch.setattr(curation, "divided", otherwise)
    player.approve()
    player.ended()
    spec = next(spec for kind, spec in player.jobs.ran if kind == "train")
    card = datasets.get_card(spec["dataset"])
    assert card.splits["test"].rows < given[-1] + 12


def test_with_a_bound_on_licences_the_other_is_taken(
    player: Player, better: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOATELIER_LICENCES", '["Apache-2.0", "MIT"]')
    settings.cache_clear()
    value = planned(player, tmp_path)
    assert value["plan"]["base"]["value"] == "tiny" and "bases" not in value["forecast"]
    monkeypatch.setenv("MOATELIER_LICENCES", '["Custom-1.0"]')
    settings.cache_clear()
    player.answer("at least 85% accuracy")
    value = player.pending()
    assert value["plan"]["base"]["value"] == better and "Apache-2.0" in value["plan"]["base"]["reason"]
    assert "licence" in line(value, "tiny")["refused"]


def test_a_base_that_was_named_is_kept_and_commented(player: Player, better: str, tmp_path: Path) -> None:
    value = planned(player, tmp_path, WORDS + ", use base tiny")
    base = value["plan"]["base"]
    assert base["value"] == "tiny" and base["source"] == "user"
    assert any(note.startswith("Bases: you named tiny") and better in note for note in value["plan"]["notes"])


def test_a_single_base_is_not_weighed(player: Player, tmp_path: Path) -> None:
    value = planned(player, tmp_path)
    assert value["plan"]["base"]["source"] == "default" and "bases" not in value["forecast"]
    assert "weigh" not in [kind for kind, _ in player.jobs.ran]
