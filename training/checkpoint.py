"""A training's saved state: a folder of files that counts only once its marker is there.

    <job>/checkpoints/step-00000025/adapter.safetensors   adapter weights
                                    torch.pt              optimiser, scheduler, random state (read with weights_only)
                                    state.json            step, seconds, curves, digests of spec and data
                                    COMPLETE              file -> SHA-256; written last

Two are kept. Whoever is killed inside a write leaves a folder without a marker, which the next reader removes.
"""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from moatelier.contracts import Contract
from moatelier.errors import Conflict
from moatelier.faults import fault_point
from moatelier.ids import canonical_json, digest_bytes, digest_file
from moatelier.job import write_atomically

_KEPT = 2
_MARKER = "COMPLETE"


class State(Contract):
    """The part of a training's state that is plain JSON."""

    spec: str
    """Digest of the TrainSpec."""
    data: str
    """Digest of the rows it trains on."""
    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    curve: tuple[tuple[int, float], ...] = ()
    dev_curve: tuple[tuple[int, float], ...] = ()


class Checkpoints:
    """The checkpoints of one job.

    Args:
        folder: The job's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "checkpoints"

    @property
    def any(self) -> bool:
        """Whether there is a whole checkpoint."""
        return any(_is_whole(entry) for entry in self._entries())

    def save(self, state: State, weights: dict[str, Tensor], rest: dict[str, Any]) -> None:
        """Write a checkpoint, whole or not at all, and remove all but the last two.

        Args:
            state: The JSON part.
            weights: The adapter's tensors.
            rest: Tensors, numbers, strings and containers of these, for `torch.save`.

        Raises:
            ResourceExhausted: The disk is full; the last checkpoint stays.
        """
        folder = self._folder / f"step-{state.step:08d}"
        if _is_whole(folder):
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        buffer = io.BytesIO()
        torch.save(rest, buffer)
        files = {
            "adapter.safetensors": save({name: tensor.contiguous() for name, tensor in weights.items()}),
            "torch.pt": buffer.getvalue(),
            "state.json": canonical_json(state.model_dump(mode="json")),
        }
        for name, data in files.items():
            write_atomically(folder / name, data)
            fault_point("checkpoint.inside")
        marker = {name: digest_bytes(data) for name, data in files.items()}
        write_atomically(folder / _MARKER, canonical_json(marker))
        for old in self._entries()[:-_KEPT]:
            shutil.rmtree(old)

    def latest(self, spec: str, data: str, device: str) -> tuple[State, dict[str, Tensor], dict[str, Any]] | None:
        """The newest whole checkpoint as `save` was given it, or None. Half-written ones are removed.

        Raises:
            Conflict: It was written for another spec or other data.
        """
        for folder in reversed(self._entries()):
            if not _is_whole(folder):
                shutil.rmtree(folder)
                continue
            state = State.model_validate_json((folder / "state.json").read_bytes())
            _refuse_change(folder, state, spec, data)
            weights = load((folder / "adapter.safetensors").read_bytes())
            rest = torch.load(folder / "torch.pt", map_location=device, weights_only=True)
            return state, weights, rest
        return None

    def _entries(self) -> list[Path]:
        return sorted(self._folder.glob("step-*"))


def _refuse_change(folder: Path, state: State, spec: str, data: str) -> None:
    for what, before, after in (("training spec", state.spec, spec), ("training data", state.data, data)):
        if before != after:
            raise Conflict(
                f"The {what} changed since this training began ({before[:12]}, now {after[:12]}).",
                where=str(folder),
                remedy="Go on with what it began with, or start a new training.",
            )


def _is_whole(folder: Path) -> bool:
    try:
        files: dict[str, str] = json.loads((folder / _MARKER).read_bytes())
        return all(digest_file(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError):
        return False
