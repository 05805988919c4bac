from pathlib import Path
from typing import Any

import pytest
import torch

from moatelier.errors import Conflict, ResourceExhausted
from training import checkpoint
from training.checkpoint import Checkpoints, State


def state(step: int) -> State:
    return State(spec="s", data="d", step=step, seconds=1.5, curve=((step, 0.1 + 0.2),))


def save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(state(step), {"a": torch.full((2, 3), step)}, {"random": torch.get_rng_state(), "lr": 1e-3})


def latest(checkpoints: Checkpoints, spec: str = "s", data: str = "d") -> Any:
    return checkpoints.latest(State(spec=spec, data=data), "cpu")


def test_what_is_saved_comes_back_bit_by_bit(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert latest(checkpoints) is None and not checkpoints.any
    save(checkpoints, 5)
    found, weights, rest = latest(checkpoints)
    assert found == state(5) and checkpoints.any
    assert torch.equal(weights["a"], torch.full((2, 3), 5))
    assert torch.equal(rest["random"], torch.get_rng_state()) and rest["lr"] == 1e-3


def test_two_are_kept_and_the_newest_counts(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 10, 100):
        save(checkpoints, step)
    assert sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir()) == ["step-00000010", "step-00000100"]
    assert latest(checkpoints)[0].step == 100


def test_the_marker_is_written_last_and_an_older_one_goes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, written, write = Checkpoints(tmp_path), [], checkpoint.write_atomically
    save(checkpoints, 5)
    save(checkpoints, 10)

    def watched(path: Path, data: bytes) -> None:
        assert (tmp_path / "checkpoints" / "step-00000005" / "COMPLETE").exists()
        written.append(path.name)
        write(path, data)

    monkeypatch.setattr(checkpoint, "write_atomically", watched)
    save(checkpoints, 15)
    assert written == ["adapter.safetensors", "torch.pt", "state.json", "COMPLETE"]
    assert not (tmp_path / "checkpoints" / "step-00000005").exists()


@pytest.mark.parametrize("damage", ["no marker", "short file", "missing file", "torn marker"])
def test_a_half_written_one_is_skipped_and_removed(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 5)
    save(checkpoints, 10)
    folder = tmp_path / "checkpoints" / "step-00000010"
    match damage:
        case "no marker":
            (folder / "COMPLETE").unlink()
        case "short file":
            (folder / "torch.pt").write_bytes((folder / "torch.pt").read_bytes()[:-1])
        case "missing file":
            (folder / "state.json").unlink()
        case "torn marker":
            (folder / "COMPLETE").write_text('{"adapter')
    assert latest(checkpoints)[0].step == 5
    assert not folder.exists()
    save(checkpoints, 10)
    assert latest(checkpoints)[0].step == 10


def test_a_whole_one_is_not_written_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 5)
    before = (tmp_path / "checkpoints" / "step-00000005" / "torch.pt").stat().st_ino
    save(checkpoints, 5)
    assert (tmp_path / "checkpoints" / "step-00000005" / "torch.pt").stat().st_ino == before


@pytest.mark.parametrize(("spec", "data", "text"), [("other", "d", "training spec"), ("s", "other", "training data")])
def test_another_spec_or_other_data_is_refused(tmp_path: Path, spec: str, data: str, text: str) -> None:
    """No silent restart: ms-swift#8383, ms-swift#3951, transformers#35782."""
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 5)
    with pytest.raises(Conflict, match=f"The {text} changed"):
        latest(checkpoints, spec, data)


def test_a_full_disk_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 5)
    write = checkpoint.write_atomically

    def full(path: Path, data: bytes) -> None:
        if path.name == "state.json":
            raise ResourceExhausted("Writing failed: no space.")
        write(path, data)

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    with pytest.raises(ResourceExhausted):
        save(checkpoints, 10)
    assert latest(checkpoints)[0].step == 5


def test_nothing_pickled_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(5), {"a": torch.zeros(1)}, {"path": Path("/")})
    with pytest.raises(Exception, match="Weights only load failed"):
        latest(checkpoints)
