"""Specs for pictures and recordings: what a first trial is, and which changes have a meaning."""

from typing import Any

import pytest

from agents.trainer import Change, Stop, Trial, explain, first_spec, next_step
from moatelier.contracts import DatasetCard, Diagnosis, Finding, TaskPlan, TrainSpec
from tests.agents.media_scenes import DIGITS, FOLDERS, MOODS, TOLD, planned
from tests.agents.trials import card as text_card
from tests.agents.trials import trial

PICTURES, SPEECH = planned("90 % right"), planned("95 %", data=DIGITS)


def card(modality: str, rows: int = 960, **fields: Any) -> DatasetCard:
    return text_card(rows).model_copy(update={"modality": modality, **fields})


def first(plan: TaskPlan, rows: int = 960, pace: float = 20.0, seconds: float = 1800, **fields: Any) -> TrainSpec:
    return first_spec(plan, card(plan.modality.value, rows, **fields), seconds_left=seconds, pace=pace)


def test_the_last_blocks_see_pictures_at_the_size_that_is_worth_it() -> None:
    spec = first(PICTURES, size=128)
    assert (spec.method, spec.epochs, spec.batch_rows, spec.layers, spec.size) == (
        "top_blocks",
        8,
        32,
        "top_third",
        128,
    )
    assert spec.learning_rate == 3e-4 and spec.window_s is None
    assert explain(spec, card("vision", size=128)).startswith(
        "960 pictures, 8 epochs in batches of 32, top_blocks on the top third of the layers, seen at 128 pixels"
    )


def test_recordings_are_heard_in_the_window_of_the_card_by_all_layers() -> None:
    spec = first(SPEECH, rows=600, window_s=3.0)
    assert (spec.method, spec.rank, spec.alpha, spec.epochs, spec.batch_rows) == ("audio_lora", 8, 16, 3, 16)
    assert (spec.layers, spec.window_s, spec.size, spec.learning_rate) == ("all", 3.0, None, 1e-3)
    assert "heard in windows of 3 s" in explain(spec, card("audio", 600, window_s=3.0))


def test_epochs_are_what_the_time_allows() -> None:
    assert first(PICTURES, pace=10, seconds=320).epochs == 2
    assert first(PICTURES, rows=100, pace=100).batch_rows == 16
    once = {"seconds_left": 320.0, "pace": 10.0, "frozen_seconds": 96.0}
    assert first_spec(PICTURES, card("vision"), **once).epochs == 1


def test_pictures_and_captions_are_brought_together_in_large_batches() -> None:
    plan = planned("find pictures by caption, 60 %", data=TOLD)
    spec = first(plan, size=128)
    assert (spec.method, spec.rank, spec.alpha, spec.epochs, spec.batch_rows) == ("contrastive", 8, 16, 8, 64)
    assert (spec.layers, spec.learning_rate, spec.augment, spec.size) == ("top_third", 1e-3, False, 128)
    changed = set[str]().union(*(changes(plan, kind, size=128) for kind in ("underfit", "plateau", "overfit")))
    assert not changed & {"batch_rows", "augment"} and {"epochs", "layers", "size", "rank"} <= changed


def found(kind: str) -> Diagnosis:
    finding = Finding(kind=kind, confidence=0.5, evidence={}, text="So it is.")  # type: ignore[arg-type]
    return Diagnosis(trial=0, findings=(finding,))


def changes(plan: TaskPlan, kind: str, **fields: Any) -> set[str]:
    """The fields that any later trial of the same method may change."""
    spec, data = first(plan, **fields), card(plan.modality.value, **fields)
    trials: list[Trial] = [trial(0.5, spec=spec)]
    seen: set[str] = set()
    generous = plan.model_copy(
        update={"budget": plan.budget.model_copy(update={"value": plan.budget.value.model_copy(update={"trials": 20})})}
    )
    while isinstance(following := next_step(generous, data, trials, found(kind), seconds_left=1e6), Change):
        old, new = spec.model_dump(), following.spec.model_dump()
        if following.level != "method":  # which brings its own start along
            seen |= {name for name in new.keys() | old.keys() if old.get(name) != new.get(name)}
        trials.append(trial(0.4, spec=following.spec))
    assert isinstance(following, Stop)
    return seen - {"max_seconds"}


@pytest.mark.parametrize("kind", ["underfit", "overfit", "plateau", "healthy", "never_stops"])
def test_only_what_has_a_meaning_is_changed(kind: str) -> None:
    assert not changes(PICTURES, kind, size=128) & {"rank", "dropout", "window_s", "augment"}
    assert not changes(SPEECH, kind, window_s=3.0) & {"layers", "size", "window_s"}
    assert not changes(planned("90 %, linear probe"), kind)


def test_a_change_to_what_a_spec_leaves_out_is_told() -> None:
    voices, data = planned("tell the mood, 90 %", data=MOODS), card("audio", window_s=3.0)
    spec = first(voices, window_s=3.0)
    assert not spec.augment and "augment False -> True" in explain(
        spec.model_copy(update={"augment": True}), data, spec
    )


def test_more_pixels_may_help_where_few_were_seen() -> None:
    assert "size" in changes(PICTURES, "plateau", size=128)
    assert "size" not in changes(PICTURES, "plateau")
    assert {"rank", "dropout"} <= changes(planned("90 % by LoRA", data=FOLDERS), "overfit") | changes(
        planned("90 % by LoRA"), "plateau"
    )
