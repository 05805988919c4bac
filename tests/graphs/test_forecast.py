"""What a plan takes is told before it is approved, and refused where it does not fit."""

from pathlib import Path
from typing import Any

import pytest

from graphs import curation, forecasting
from moatelier.contracts import TrainSpec
from moatelier.settings import settings
from store import datasets
from tests import fakes
from tests.graphs.conftest import Player

SHORT = "Train a classifier that predicts intent from message, at least 80% accuracy, 1 trial, 10 seconds of training"


def started(player: Player, tmp_path: Path, words: str = SHORT) -> dict[str, Any]:
    player.say(words, train=player.upload(fakes.support_csv(tmp_path / "support.csv")))
    return player.pending()


def approve(player: Player, value: dict[str, Any]) -> None:
    player.answer({"version": value["version"], "decisions": [{"type": "approve"}]})


def trained(player: Player) -> TrainSpec:
    return TrainSpec.model_validate(next(spec for kind, spec in player.jobs.ran if kind == "train"))


def test_the_probe_is_told_the_lengths_and_the_method(player: Player, tmp_path: Path) -> None:
    value = started(player, tmp_path, SHORT.replace("10 seconds", "10 minutes"))
    [spec] = [spec for kind, spec in player.jobs.ran if kind == "probe"]
    lengths = spec["lengths"]
    assert spec["method"] == "lora" and spec["layers"] == "top_third" and spec["batch_rows"] == 8
    assert 1 <= len(lengths["rows"]) <= 64 and lengths["longest"] == max(tokens for tokens, _ in lengths["rows"])
    assert 0 < lengths["shared"] < min(tokens for tokens, _ in lengths["rows"])
    assert all(0 < trained < tokens for tokens, trained in lengths["rows"])
    assert value["forecast"]["rows"] == 72 and value["forecast"]["dev_rows"] == 12
    assert value["refused"] is None and value["forecast"]["cheaper"] == []


def test_over_budget_is_refused_with_the_numbers_and_three_cheaper_trials(player: Player, tmp_path: Path) -> None:
    value = started(player, tmp_path)
    forecast = value["forecast"]
    assert forecast["seconds"] > 10 and not forecast["fits_budget"] and len(forecast["cheaper"]) == 3
    assert all(each["estimate"]["seconds"] <= 10 for each in forecast["cheaper"])
    assert value["refused"]["code"] == "resource_exhausted" and value["refused"]["where"] == "budget"
    approve(player, value)
    again = player.pending()
    assert again["version"] == value["version"] and "train" not in [kind for kind, _ in player.jobs.ran]
    told = player.events("decision")[-1].body
    assert told["decision"]["refused"]["code"] == "resource_exhausted"
    assert f"{forecast['seconds']:.0f} s" in told["reason"] and "1: " in told["reason"] and "3: " in told["reason"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_cheaper_trial_is_chosen_by_its_number_and_is_what_is_trained(
    player: Player, tmp_path: Path, number: int
) -> None:
    option = started(player, tmp_path)["forecast"]["cheaper"][number - 1]
    player.answer(str(number))
    value = player.pending()
    limits = {name: of for name, of in option["limits"].items() if of is not None}
    assert {name: value["plan"]["limits"][name] for name in limits} == limits
    assert value["refused"] is None and value["forecast"]["seconds"] <= 10
    approve(player, value)
    player.ended()
    spec, card = trained(player), datasets.get_card(trained(player).dataset)
    if option["limits"]["epochs"]:
        assert spec.epochs <= option["limits"]["epochs"]
    if option["limits"]["rows"]:
        assert card.splits["train"].rows == option["limits"]["rows"]
        labels = card.splits["train"].labels or {}
        assert len(labels) == 3 and max(labels.values()) - min(labels.values()) <= 1
    if option["limits"]["tokens"]:
        assert card.report.token_lengths["max"] <= option["limits"]["tokens"]
        assert card.splits["train"].rows < 72
    assert card.splits["test"].rows == 24  # what is tested stays as it is


def test_a_chosen_trial_is_not_refused_for_a_slower_measure_but_cut_to_the_time(player: Player, tmp_path: Path) -> None:
    option = started(player, tmp_path)["forecast"]["cheaper"][1]
    assert option["limits"]["rows"] and not option["limits"]["epochs"]
    player.jobs.speed["train_rows_per_s"] /= 1.3  # of fewer rows, a step takes fewer, and each costs more
    player.answer("2")
    value = player.pending()
    assert value["refused"] is None and value["forecast"]["seconds"] <= 10 and value["forecast"]["epochs"] < 3
    approve(player, value)
    player.ended()
    assert trained(player).epochs < 3


def test_a_longer_budget_is_another_answer(player: Player, tmp_path: Path) -> None:
    started(player, tmp_path)
    edit = {"type": "edit", "edited_action": {"name": "train", "args": {"budget": {"seconds": 600}}}}
    player.answer({"decisions": [edit]})
    value = player.pending()
    assert value["refused"] is None and value["forecast"]["fits_budget"]


def test_more_memory_than_there_is_is_refused_before_anything_is_queued(
    player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecasting, "available_bytes", lambda: 1_500_000_000)
    value = started(player, tmp_path, SHORT.replace("10 seconds", "10 minutes"))
    assert value["refused"]["where"] == "memory" and "2.0 GB" in value["refused"]["what"]
    assert "1.5 GB" in value["refused"]["what"]
    approve(player, value)
    assert player.pending()["refused"] and "train" not in [kind for kind, _ in player.jobs.ran]
    monkeypatch.setattr(forecasting, "available_bytes", lambda: 3_000_000_000)
    approve(player, value)  # somebody has freed some
    assert player.ended().status == "reached"


def test_an_hour_with_a_price_gives_a_trial_its_cost(
    player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOATELIER_PRICE_PER_HOUR", "36")
    settings.cache_clear()
    value = started(player, tmp_path)
    assert value["forecast"]["cost"] == pytest.approx(value["forecast"]["seconds"] / 100, abs=1e-3)
    assert all(each["estimate"]["cost"] for each in value["forecast"]["cheaper"])
    assert "costs" in value["refused"]["what"] and "costs" in value["action_requests"][0]["description"]


def test_limits_that_cannot_be_are_told(player: Player, tmp_path: Path) -> None:
    value = started(player, tmp_path)
    edit = {"type": "edit", "edited_action": {"name": "train", "args": {"limits": {"rows": 0}}}}
    player.answer({"version": value["version"], "decisions": [edit]})
    assert player.pending()["version"] == value["version"]
    assert "limits.rows" in player.events("decision")[-1].body["reason"]


def test_some_rows_are_of_all_labels_and_the_same_again() -> None:
    class Row:
        def __init__(self, number: int, label: str | None) -> None:
            self.number, self.label = number, label

    rows = [Row(number, "a" if number % 4 else "b") for number in range(40)]
    some = curation.some(rows, 12, seed=3)
    assert [row.label for row in some].count("b") == 3 and some == curation.some(rows, 12, seed=3)
    assert some != curation.some(rows, 12, seed=4) and curation.some(rows, 99, seed=3) == rows
