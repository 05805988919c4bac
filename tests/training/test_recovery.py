"""A training that diverges, or runs out of memory or disk: what it does, what it tells, and that it stays exact."""

import errno
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from moatelier.contracts import TrainResult
from moatelier.errors import Cancelled, Conflict, DataError, InvalidRequest, ResourceExhausted
from moatelier.job import CANCELLED, Job
from modalities.bundle import WEIGHTS, bundle_folder
from tests.training.planted import plant
from tests.training.rows import dataset, rows, spec
from tests.training.test_run import StopAt, events, train
from training.recovery import is_out_of_memory
from training.run import work
from training.text import TextObjective

CPU = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


@pytest.fixture
def card(tiny: str) -> str:
    return dataset(rows(30), rows(9, start=30))


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return load_file(bundle_folder(result.bundle) / WEIGHTS)


def kept(home: Path, name: str = "job") -> list[str]:
    return sorted(entry.name for entry in (home / "jobs" / name / "checkpoints").glob("step-*"))


# A loss that is not finite.


def test_it_goes_back_to_the_last_good_checkpoint_at_a_third_of_the_rate(
    home: Path, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = spec(card, schedule="constant", warmup_ratio=0.0).model_dump()
    smooth = train(home, fields, "smooth")
    plant(monkeypatch, at=8)
    result = train(home, fields)
    assert [(setback.kind, setback.step, setback.back_to) for setback in result.setbacks] == [("diverged", 8, 6)]
    assert result.curve[:6] == smooth.curve[:6] and result.curve[7:] != smooth.curve[7:] and len(result.curve) == 10
    rates = {event["step"]: event["body"]["lr"] for event in events(home, "progress")}
    assert [rates[step] for step in (6, 7, 10)] == pytest.approx([1e-2, 1e-2 / 3, 1e-2 / 3])
    (told,) = events(home, "setback")
    assert told["body"]["trouble"] == "diverged" and told["body"]["learning_rate_divided_by"] == 3
    assert (told["body"]["at"], told["body"]["back_to"]) == (8, 6) and "nan" in told["body"]["what"]


def test_a_checkpoint_whose_very_next_loss_is_not_finite_is_no_good_one(
    home: Path, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, at=7)
    assert train(home, spec(card).model_dump()).setbacks[0].back_to == 4


def test_from_the_start_it_is_the_training_with_a_third_of_the_rate(
    home: Path, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = train(home, spec(card, dropout=0.1, learning_rate=1e-2 / 3).model_dump(), "third")
    plant(monkeypatch, at=2)
    result = train(home, spec(card, dropout=0.1).model_dump())
    assert result.setbacks[0].back_to == 0 and result.curve == third.curve
    ours, theirs = weights(result), weights(third)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("how", ["gradient", "dev"])
def test_gradients_and_dev_losses_count_as_well(
    home: Path, card: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    plant(monkeypatch, at=5, how=how)
    result = train(home, spec(card).model_dump())
    (setback,) = result.setbacks
    assert (setback.step, setback.back_to) == {"gradient": (5, 2), "dev": (6, 4)}[how]
    assert result.steps == 10 and all(math.isfinite(loss) for _, loss in (*result.curve, *result.dev_curve))


def test_twice_and_then_it_ends_with_the_last_good_state_kept(
    home: Path, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, at=8, times=3)
    with pytest.raises(DataError, match="went back 2 times") as caught:
        train(home, spec(card).model_dump())
    assert caught.value.remedy == "Lower the learning rate."
    told = [event["body"]["learning_rate_divided_by"] for event in events(home, "setback")]
    assert told == [3, 9] and kept(home) == ["step-00000004", "step-00000006"]


@pytest.mark.parametrize("stops", [(7,), (6, 7), (3, 7, 7, 8), (5, 6, 7, 9)])
def test_stopped_before_and_after_it_went_back_it_ends_with_the_same_bits(
    home: Path, card: str, monkeypatch: pytest.MonkeyPatch, stops: tuple[int, ...]
) -> None:
    fields = spec(card, dropout=0.1).model_dump()
    plant(monkeypatch, at=8, times=2)
    undisturbed = train(home, fields, "undisturbed")
    for step in stops:
        with pytest.raises(Cancelled):
            work(fields, StopAt(home / "jobs" / "job", "progress", step))
    result = train(home, fields)
    assert (result.curve, result.dev_curve, result.bundle) == (
        undisturbed.curve,
        undisturbed.dev_curve,
        undisturbed.bundle,
    )
    assert [setback.back_to for setback in result.setbacks] == [6, 6]


def test_setbacks_of_another_spec_do_not_count(home: Path, card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, at=2, times=3)
    with pytest.raises(DataError):
        train(home, spec(card).model_dump())
    monkeypatch.undo()
    monkeypatch.setenv("MOATELIER_HOME", str(home))
    assert train(home, spec(card, learning_rate=1e-3).model_dump()).setbacks == ()


# Memory that runs out.


def scarce(
    monkeypatch: pytest.MonkeyPatch, most: int, error: Callable[[], Exception], *, evaluating: bool = False
) -> None:
    """From now on a micro-batch of more than `most` in size, as if padded, does not fit."""
    loss = TextObjective.loss

    def tight(self: TextObjective, piece: list[int]) -> torch.Tensor:
        total = loss(self, piece)  # drawn from the generator, as when the way back is what does not fit
        if len(piece) * max(self.sizes[row] for row in piece) > most and self.model.training is not evaluating:
            raise error()
        return total

    monkeypatch.setattr(TextObjective, "loss", tight)


ERRORS = [lambda: RuntimeError(CPU), lambda: torch.OutOfMemoryError("CUDA out of memory."), MemoryError]


@pytest.mark.parametrize("error", ERRORS)
def test_smaller_micro_batches_of_the_same_batch(
    home: Path, card: str, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]
) -> None:
    roomy = train(home, spec(card).model_dump(), "roomy")
    scarce(monkeypatch, 150, error)
    result = train(home, spec(card).model_dump())
    assert dict(result.curve) == pytest.approx(dict(roomy.curve), rel=1e-4) and result.tokens == roomy.tokens
    told = [event["body"] for event in events(home, "setback")]
    assert told and all(body["trouble"] == "memory" for body in told)
    assert told[-1]["micro"] == result.setbacks[-1].micro <= 150
    # What was learnt once is not tried again at every step.
    assert len({setback.step for setback in result.setbacks}) < 4


def test_in_an_evaluation_as_well(home: Path, card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = train(home, spec(card).model_dump(), "roomy")
    scarce(monkeypatch, 150, lambda: RuntimeError(CPU), evaluating=True)
    result = train(home, spec(card).model_dump())
    assert dict(result.dev_curve) == pytest.approx(dict(roomy.dev_curve), rel=1e-4)
    assert result.setbacks[0].moment == 11 and result.curve[:5] == roomy.curve[:5]


def test_a_run_out_of_memory_that_is_stopped_ends_with_the_same_bits(
    home: Path, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = spec(card, dropout=0.1).model_dump()
    scarce(monkeypatch, 150, lambda: RuntimeError(CPU))
    undisturbed = train(home, fields, "undisturbed")
    for step in (1, 3, 8):
        with pytest.raises(Cancelled):
            work(fields, StopAt(home / "jobs" / "job", "progress", step))
    # After a restart there may be room again: the noted size holds all the same.
    monkeypatch.undo()
    monkeypatch.setenv("MOATELIER_HOME", str(home))
    result = train(home, fields)
    assert (result.curve, result.bundle) == (undisturbed.curve, undisturbed.bundle)


def test_a_row_that_does_not_fit_alone_ends_with_a_remedy(
    home: Path, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.text.decide", lambda *_: False)  # which asks a row beforehand
    scarce(monkeypatch, 10, MemoryError)
    with pytest.raises(ResourceExhausted, match="cannot be cut") as caught:
        train(home, spec(card).model_dump())
    assert [event["body"].get("recompute") for event in events(home, "setback")][-1], "computed twice, as a last resort"
    assert "Shorten the longest rows" in caught.value.remedy and caught.value.where == "step 1"


def test_rows_that_are_compared_with_each_other_are_not_parted(
    home: Path, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextObjective, "indivisible", True, raising=False)
    scarce(monkeypatch, 150, MemoryError)
    with pytest.raises(ResourceExhausted, match="cannot be cut"):
        train(home, spec(card).model_dump())


def test_memory_that_runs_out_elsewhere_is_typed_too(home: Path, card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def optimiser(*_: Any, **__: Any) -> None:
        raise RuntimeError(CPU)

    monkeypatch.setattr(torch.optim.AdamW, "step", optimiser)
    with pytest.raises(ResourceExhausted, match="Memory ran out"):
        train(home, spec(card).model_dump())


def test_other_errors_are_not_taken_for_it(home: Path, card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    scarce(monkeypatch, 150, lambda: RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        train(home, spec(card).model_dump())


# A disk that is full, a clock that jumps, a spec that is none.


@pytest.mark.parametrize("file", ["adapter.safetensors", "torch.pt", "state.json", "COMPLETE", "best.safetensors"])
def test_a_full_disk_ends_it_typed_and_it_goes_on_to_the_same_bits(
    home: Path, card: str, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    fields = spec(card, dropout=0.1).model_dump()
    undisturbed = train(home, fields, "undisturbed")
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == file and (file == "best.safetensors" or target.parent.name == "step-00000004"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ResourceExhausted, match="No space left on device") as caught:
        train(home, fields)
    assert "Free some disk space" in caught.value.remedy
    left = sorted(path.name for path in (home / "jobs" / "job" / "checkpoints").iterdir())
    assert left == (["step-00000002"] if file != "best.safetensors" else ["step-00000002", "step-00000004"])
    monkeypatch.setattr(Path, "replace", replace)
    assert train(home, fields).bundle == undisturbed.bundle


def test_no_room_for_an_event_is_typed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, write = Job(home / "jobs" / "job", quiet=True), os.write

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    job.emit("progress", 1)
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ResourceExhausted, match="No space left on device"):
        job.emit("progress", 2)
    monkeypatch.undo()
    assert os.write is write and (home / "jobs" / "job" / "events.jsonl").read_text().count("\n") == 1


def test_a_wall_clock_that_jumps_changes_nothing(home: Path, card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = spec(card, max_seconds=600.0).model_dump()
    steady = train(home, fields, "steady")
    honest, jumps = time.time, [0]

    def jumping() -> float:
        jumps[0] += 1
        return honest() + (86_400 if jumps[0] % 2 else -86_400)

    monkeypatch.setattr(time, "time", jumping)
    result = train(home, fields)
    time.time()  # the fake is in place
    assert jumps[0] and result.bundle == steady.bundle and result.stopped == "finished"
    assert 0 < result.seconds < 600
    assert all(event["body"]["seconds_left"] < 600 for event in events(home, "progress"))


@pytest.mark.parametrize(
    ("change", "where"), [({"rank": 0}, "rank"), ({"batch_rows": 0}, "batch_rows"), ({"colour": "red"}, "colour")]
)
def test_a_spec_out_of_bounds_is_refused_by_its_field(home: Path, change: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be used") as caught:
        work({**spec("0" * 64).model_dump(), **change}, Job(home / "jobs" / "job", quiet=True))
    assert caught.value.where == where


def test_rows_without_a_trained_token_are_refused(home: Path, tiny: str) -> None:
    made = rows(12)
    for row in made:
        row["messages"] = row["messages"][:2]
    with pytest.raises(DataError) as caught:
        train(home, spec(dataset(made, [])).model_dump())
    assert caught.value.remedy


# What it goes on from, and what it leaves when it is cancelled.


@pytest.mark.parametrize(
    ("where", "what"), [("base_digest", "base"), ("template_digest", "template"), ("torch", "major version of torch")]
)
def test_another_base_template_or_library_refuses_to_resume(
    home: Path, card: str, monkeypatch: pytest.MonkeyPatch, where: str, what: str
) -> None:
    fields = spec(card).model_dump()
    with pytest.raises(Cancelled):
        work(fields, StopAt(home / "jobs" / "job", "progress", 3))
    manifest = TextObjective.manifest
    monkeypatch.setattr("training.run.library_majors", lambda: {"torch": "1"} if where == "torch" else {})
    monkeypatch.setattr(TextObjective, "manifest", lambda self: manifest(self) | {where: "f" * 64})
    with pytest.raises(Conflict, match=f"The {what} changed since"):
        train(home, fields)
    monkeypatch.undo()
    monkeypatch.setenv("MOATELIER_HOME", str(home))
    assert kept(home) == ["step-00000002", "step-00000003-stopped"]


@pytest.mark.parametrize(("at", "best"), [(3, 3), (8, 5)])
def test_a_person_who_cancels_is_left_the_best_so_far(home: Path, card: str, at: int, best: int) -> None:
    fields = spec(card).model_dump()
    (home / "jobs" / "whole").mkdir(parents=True)
    with pytest.raises(Cancelled):
        work(fields, StopAt(home / "jobs" / "whole", "progress", best))
    (home / "jobs" / "job").mkdir()
    (home / "jobs" / "job" / CANCELLED).touch()
    result = TrainResult.model_validate(work(fields, StopAt(home / "jobs" / "job", "progress", at)))
    assert (result.stopped, result.steps, result.dev_loss is None) == ("cancelled", best, best == 3)
    assert len(result.curve) == at
    then = load_file(home / "jobs" / "whole" / "checkpoints" / f"step-{best:08d}-stopped" / "adapter.safetensors")
    assert all(torch.equal(tensor, then[name]) for name, tensor in weights(result).items())


def test_cancelled_before_anything_was_learnt_there_is_nothing_to_leave(home: Path, card: str) -> None:
    (home / "jobs" / "job").mkdir(parents=True)
    (home / "jobs" / "job" / CANCELLED).touch()
    with pytest.raises(Cancelled):
        work(spec(card).model_dump(), StopAt(home / "jobs" / "job", "frozen", 1))
    assert not (home / "adapters").exists()
