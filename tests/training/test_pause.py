"""A training that pauses and goes on in another job, as a search does: the same bits; and parts of the data."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from moatelier.contracts import TrainResult
from moatelier.errors import Cancelled, Conflict
from moatelier.job import Job
from modalities.bundle import bundle_folder, read_manifest
from tests.training.rows import dataset, rows, spec
from tests.training.test_kill import Training, wait_for
from tests.training.test_run import StopAt, events, train
from training.batches import part_of
from training.run import work


@pytest.fixture
def card(tiny: str) -> str:
    return dataset(rows(30), rows(9, start=30))


def weights(result: TrainResult) -> bytes:
    return (bundle_folder(result.bundle) / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("pauses", [(2, 5), (1, 3, 8), (9,)])
def test_pausing_changes_no_bit(home: Path, card: str, schedule: str, pauses: tuple[int, ...]) -> None:
    fields: dict[str, Any] = {"dropout": 0.1, "weight_decay": 0.01, "schedule": schedule}
    undisturbed = train(home, spec(card, **fields).model_dump(), "undisturbed")
    before = None
    for step in pauses:
        leg = train(home, spec(card, **fields, until_steps=step, goes_on=before).model_dump(), f"until-{step}")
        assert (leg.steps, leg.stopped) == (step, "paused")
        assert dict(leg.curve) == {at: loss for at, loss in undisturbed.curve if at <= step}
        assert leg.dev_loss is not None and read_manifest(bundle_folder(leg.bundle)).spec.until_steps == step
        before = f"until-{step}"
    last = train(home, spec(card, **fields, goes_on=before).model_dump(), "last")
    assert (last.steps, last.stopped) == (10, "finished") and last.curve == undisturbed.curve
    assert last.dev_loss == undisturbed.dev_loss
    assert last.bundle == undisturbed.bundle, "sealed as if there had been no pause"
    assert [event["step"] for event in events(home, "progress", "last")] == list(range(pauses[-1] + 1, 11))


def test_stopped_after_a_pause_it_goes_on_to_the_same_bits(home: Path, card: str) -> None:
    undisturbed = train(home, spec(card, dropout=0.1).model_dump(), "undisturbed")
    train(home, spec(card, dropout=0.1, until_steps=3).model_dump(), "first")
    second = spec(card, dropout=0.1, goes_on="first", max_seconds=600.0).model_dump()
    for step in (4, 7):
        with pytest.raises(Cancelled):
            work(second, StopAt(home / "jobs" / "second", "progress", step))
    resumed = train(home, second, "second")
    assert resumed.curve == undisturbed.curve and weights(resumed) == weights(undisturbed)


@pytest.mark.slow
def test_killed_after_a_pause_before_its_own_first_checkpoint(home: Path, card: str) -> None:
    undisturbed = Training(home, card, "undisturbed").finish()
    Training(home, card, "first", until_steps=3).finish()
    second = Training(home, card, "second", goes_on="first", checkpoint_every=2, max_seconds=600.0)
    process = second.start("train.before_first_checkpoint")
    wait_for(process, lambda: (home / "faults" / "train.before_first_checkpoint").exists())
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    ended = second.finish()
    assert ended["curve"] == undisturbed["curve"]
    weights = [Path(home / "adapters" / each["bundle"] / "adapter_model.safetensors") for each in (ended, undisturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert json.loads((home / "jobs" / "second" / "result.json").read_text())["loading_seconds"] > 0


def test_another_training_does_not_go_on_from_it_nor_does_one_whose_checkpoint_is_gone(home: Path, card: str) -> None:
    train(home, spec(card, until_steps=3).model_dump(), "first")
    with pytest.raises(Conflict, match="training spec changed"):
        train(home, spec(card, goes_on="first", learning_rate=1e-3).model_dump(), "other")
    with pytest.raises(Conflict, match="no checkpoint to go on from"):
        work(spec(card, goes_on="nowhere").model_dump(), Job(home / "jobs" / "lost", quiet=True))


def test_the_time_limit_counts_what_was_spent_before_the_pause(home: Path, card: str) -> None:
    first = train(home, spec(card, epochs=1e6, until_steps=3).model_dump(), "first")
    late = spec(card, epochs=1e6, goes_on="first", max_seconds=first.seconds / 2).model_dump()
    result = train(home, late, "late")
    assert (result.steps, result.stopped) == (3, "out_of_time") and weights(result) == weights(first)


def test_parts_are_nested_and_a_trial_on_a_part_shares_the_cache_of_the_whole(home: Path, card: str) -> None:
    assert part_of(30, 1.0) == list(range(30)) and len(part_of(30, 0.5)) == 15
    assert set(part_of(30, 0.25)) < set(part_of(30, 0.5)) < set(part_of(30, 0.9))
    whole = train(home, spec(card).model_dump(), "whole")
    part = train(home, spec(card, data_part=0.5).model_dump(), "part")
    higher = train(home, spec(card, rank=8, learning_rate=3e-3).model_dump(), "higher")
    assert events(home, "frozen", "whole") and not events(home, "frozen", "part") + events(home, "frozen", "higher")
    assert (whole.steps, part.steps, higher.steps) == (10, 6, 10)  # 15 rows in batches of 6: 3 steps an epoch
    assert part.tokens < whole.tokens and part.dev_curve[-1] != whole.dev_curve[-1]
