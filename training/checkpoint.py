"""A training's saved state: a folder of files that counts only once its marker is there.

    <job>/checkpoints/step-00000025/adapter.safetensors   adapter weights
                                    torch.pt              optimiser, scheduler, random state (read with weights_only)
                                    state.json            step, seconds, curves, digests of spec and data
                                    COMPLETE              file -> SHA-256; written last

    <job>/checkpoints/step-00000031-stopped/...               the same, of a training that was asked to stop
                      best.safetensors                        adapter weights with the lowest dev loss so far

Two are kept, beside one that was written in passing. Whoever is killed inside a write leaves a folder without a marker,
which the next reader removes.
"""

import io
import json
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save
from torch import Tensor

from moatelier.contracts import Contract
from moatelier.errors import Conflict, ResourceExhausted
from moatelier.faults import fault_point
from moatelier.ids import canonical_json, digest_bytes, digest_file
from moatelier.job import write_atomically

_KEPT = 2
_MARKER = "COMPLETE"
_STOPPED = "-stopped"
_BEST = "best.safetensors"
_LIBRARIES = ("torch", "transformers", "peft", "safetensors")
"""Another major version of these may give other bits, or read a checkpoint in another way."""


def library_majors() -> dict[str, str]:
    """Library -> its major version; of versions before 1.0 the first two numbers, which may break as a major does."""
    numbers = {name: version(name).split(".") for name in _LIBRARIES}
    return {name: ".".join(parts[: 2 if parts[0] == "0" else 1]) for name, parts in numbers.items()}


class State(Contract):
    """The part of a training's state that is plain JSON."""

    spec: str
    """Digest of the TrainSpec."""
    data: str
    """Digest of the rows it trains on."""
    base: str = ""
    """Digest of the base."""
    template: str = ""
    """Digest of what turns inputs into the model's: a chat template, an image transform."""
    libraries: dict[str, str] = {}
    """See `library_majors`."""
    returns: int = 0
    """How often the training had gone back to a checkpoint before it came here."""
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
        """Whether a checkpoint has been written to its end."""
        return any((entry / _MARKER).exists() for entry in self._entries())

    @property
    def scheduled(self) -> list[int]:
        """The steps of the whole checkpoints that are written every so many steps, ascending."""
        return [_step(entry) for entry in self._entries() if not entry.name.endswith(_STOPPED) and _is_whole(entry)]

    def save(self, state: State, weights: Mapping[str, Tensor], rest: dict[str, Any], *, stopped: bool = False) -> None:
        """Write a checkpoint, whole or not at all, and remove all but the last two.

        Args:
            state: The JSON part.
            weights: The adapter's tensors.
            rest: Tensors, numbers, strings and containers of these, for `torch.save`.
            stopped: It is written in passing, as the training was asked to stop. It takes no place of the two, so
                that these do not depend on who stopped the training when.

        Raises:
            ResourceExhausted: The disk is full; the last checkpoint stays.
        """
        folder = self._folder / f"step-{state.step:08d}{_STOPPED if stopped else ''}"
        if _is_whole(folder):
            return
        buffer = io.BytesIO()
        torch.save(rest, buffer)
        files = {
            "adapter.safetensors": save({name: tensor.contiguous() for name, tensor in weights.items()}),
            "torch.pt": buffer.getvalue(),
            "state.json": canonical_json(state.model_dump(mode="json")),
        }
        self._write(folder, files)
        self._prune()

    def _write(self, folder: Path, files: dict[str, bytes]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        _made(folder)
        try:
            for name, data in files.items():
                write_atomically(folder / name, data)
                fault_point("checkpoint.inside")
            marker = {name: digest_bytes(data) for name, data in files.items()}
            write_atomically(folder / _MARKER, canonical_json(marker))
        except ResourceExhausted:
            shutil.rmtree(folder, ignore_errors=True)  # half of one is of no use, and its room may be
            raise

    def _prune(self) -> None:
        entries = self._entries()
        scheduled = [entry for entry in entries if not entry.name.endswith(_STOPPED)][-_KEPT:]
        passing = [entry for entry in entries if not scheduled or entry > scheduled[-1]]
        for old in set(entries) - {*scheduled, *passing[-1:]}:
            shutil.rmtree(old)

    def latest(
        self, now: State, device: str, usable: Callable[[State], bool] = lambda _: True
    ) -> tuple[State, dict[str, Tensor], dict[str, Any]] | None:
        """The newest whole checkpoint as `save` was given it, or None. Half-written and unusable ones are removed.

        Args:
            now: What the training is about now.
            device: Where to put the tensors of `rest`.
            usable: Whether a checkpoint is one to go on from.

        Raises:
            Conflict: It was written for another spec, other data, another base or template, or under another major
                version of a library.
        """
        for folder in reversed(self._entries()):
            if not _is_whole(folder):
                shutil.rmtree(folder)
                continue
            state = State.model_validate_json((folder / "state.json").read_bytes())
            _refuse_change(folder, state, now)
            if not usable(state):
                shutil.rmtree(folder)
                continue
            weights = load((folder / "adapter.safetensors").read_bytes())
            rest = torch.load(folder / "torch.pt", map_location=device, weights_only=True)
            return state, weights, rest
        return None

    def keep_best(self, state: State, weights: Mapping[str, Tensor]) -> None:
        """Keep weights for whoever cancels; those before them are gone.

        Raises:
            ResourceExhausted: The disk is full; those before stay.
        """
        told = {"spec": state.spec, "data": state.data, "step": str(state.step)}
        tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
        _made(self._folder)
        write_atomically(self._folder / _BEST, save(tensors, metadata=told))

    def best(self, now: State) -> tuple[int, dict[str, Tensor]] | None:
        """Step and weights that `keep_best` kept for this spec and data, or None."""
        file = self._folder / _BEST
        if not file.exists():
            return None
        with safe_open(file, "pt") as opened:
            told = opened.metadata()
        if (told["spec"], told["data"]) != (now.spec, now.data):
            return None
        return int(told["step"]), load_file(file)

    def _entries(self) -> list[Path]:
        return sorted(self._folder.glob("step-*"))


def _refuse_change(folder: Path, before: State, now: State) -> None:
    pairs = [
        ("training spec", before.spec, now.spec),
        ("base", before.base, now.base),
        ("template", before.template, now.template),
        ("training data", before.data, now.data),
    ]
    pairs += [
        (f"major version of {name}", before.libraries.get(name, ""), now.libraries[name]) for name in now.libraries
    ]
    for what, then, here in pairs:
        if then != here:
            raise Conflict(
                f"The {what} changed since this training began ({then[:12] or 'unknown'}, now {here[:12]}).",
                where=str(folder),
                remedy="Go on with what it began with, or start a new training.",
            )


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceExhausted(
            f"Making a folder failed: {error.strerror}.",
            where=str(folder),
            remedy="Free some disk space and try again.",
        ) from error


def _step(folder: Path) -> int:
    return int(folder.name.removesuffix(_STOPPED).removeprefix("step-"))


def _is_whole(folder: Path) -> bool:
    try:
        files: dict[str, str] = json.loads((folder / _MARKER).read_bytes())
        return all(digest_file(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError):
        return False
