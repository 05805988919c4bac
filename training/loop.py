"""The training loop of every modality: micro-batches, a summed loss, checkpoints, a hard time limit.

The loss of a step is the sum over its units (trained tokens, pictures) divided by their number in the whole batch, so
that cutting the batch into micro-batches changes nothing (transformers#34191). Every step is a function of the state
before it, the seed and the step's number: a run that is killed and resumed ends with the same bits.
"""

import math
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from moatelier.contracts import TrainSpec
from moatelier.errors import Conflict, DataError, ResourceExhausted
from moatelier.faults import fault_point
from moatelier.job import Job
from training import methods, schedules, stepping
from training.batches import epoch_batches, micro_batches, part_of, steps_per_epoch
from training.checkpoint import Checkpoints, State
from training.objective import Objective, Together

_DEV_ROWS = 64


class Loop:
    """One training run, resumable.

    Args:
        spec: What to do.
        objective: The model with its fresh adapter, and the loss of its rows.
        train_rows: How many of the rows are for training; those after them are dev rows.
        job: Told of progress; asked whether to stop.
        state: Where to start: `seconds` spent so far, digests of spec and data.
    """

    def __init__(self, spec: TrainSpec, objective: Objective, train_rows: int, job: Job, state: State) -> None:
        self._spec, self._objective, self._job = spec, objective, job
        self._train, self._dev = part_of(train_rows, spec.data_part), range(train_rows, len(objective.sizes))
        self._accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.epoch_steps = steps_per_epoch(len(self._train), spec.batch_rows)
        """Optimiser steps of an epoch."""
        self.steps = 0 if objective.solved else max(1, math.ceil(spec.epochs * self.epoch_steps))
        """Optimiser steps of the whole run."""
        self._until = min(self.steps, spec.until_steps or self.steps)
        stepper = methods.stepper(spec.method)
        self._stepper = stepping.make(spec, stepper, objective, self._accelerator, self._learning_rate, self.steps)
        self._checkpoints = Checkpoints(job.folder)
        self._began = time.monotonic() - state.seconds
        self._resumed = state
        self._tokens, self._step = state.tokens, 0
        self._curve, self._dev_curve = list(state.curve), list(state.dev_curve)
        self.dev_seconds = 0.0
        """What the last evaluation of the dev rows took."""
        self.step_seconds: list[float] = []
        """Of the last steps, at most 20 of them."""

    def run(self) -> tuple[State, bool]:
        """Train to the end, the pause or the time limit; returns the final state and whether that end was reached.

        Raises:
            Cancelled: The job was asked to stop; a checkpoint was written.
            ResourceExhausted: Not even one step fits into the time limit.
            DataError: The loss is not finite.
            Conflict: The checkpoint from which to go on is another training's, or is gone.
        """
        self._resume()
        finished = True
        while self._step < self._until:
            if not self._has_time():
                finished = False
                break
            self._one_step()
        if not self.steps:
            self._curve = [(0, self._mean_loss(self._train))]
        if not self._dev_curve or self._dev_curve[-1][0] != self._step:
            self._evaluate()
        self._save()
        return self._state(), finished

    def _resume(self) -> None:
        known = (self._resumed.spec, self._resumed.data, str(self._accelerator.device))
        found = self._checkpoints.latest(*known) or self._paused(*known)
        if found is None:
            return
        state, weights, rest = found
        self._objective.restore(weights)
        self._stepper.restore(rest["stepper"], state.step)
        torch.set_rng_state(rest["random"].cpu())
        if "random_cuda" in rest:
            torch.cuda.set_rng_state(rest["random_cuda"].cpu())
        self._step, self._tokens = state.step, state.tokens
        self._curve, self._dev_curve = list(state.curve), list(state.dev_curve)
        self._began = time.monotonic() - (state.seconds + self._resumed.seconds)
        self._job.emit("resumed", state.step, seconds=round(state.seconds, 1))

    def _paused(self, *known: str) -> tuple[State, dict[str, Tensor], dict[str, Any]] | None:
        """The checkpoint that the paused job left from which this one goes on; None when it begins anew."""
        if self._spec.goes_on is None:
            return None
        folder = self._job.folder.parent / self._spec.goes_on
        if (found := Checkpoints(folder).latest(*known)) is None:
            raise Conflict(
                "The paused training has left no checkpoint to go on from.",
                where=str(folder),
                remedy="Train from the beginning: leave out `goes_on`.",
            )
        return found

    def _one_step(self) -> None:
        start = time.monotonic()
        loss, tokens = self._train_on(self._batch())
        self._step += 1
        self._tokens += tokens
        self._curve.append((self._step, loss))
        self.step_seconds = [*self.step_seconds[-19:], time.monotonic() - start]
        self._report(loss, tokens)
        fault_point("train.between_checkpoints" if self._checkpoints.any else "train.before_first_checkpoint")
        if self._step % self.epoch_steps == 0 and self._step < self.steps and self._has_time(evaluate=True):
            self._evaluate()
        if self._job.should_stop:
            self._save()
            self._job.check()
        if self._step % self._spec.checkpoint_every == 0 and self._step < self._until:
            self._save()

    def _batch(self) -> list[int]:
        epoch, at = divmod(self._step, self.epoch_steps)
        sizes = [self._objective.sizes[row] for row in self._train]
        return [self._train[row] for row in epoch_batches(sizes, self._spec.batch_rows, self._spec.seed, epoch)[at]]

    def _train_on(self, rows: Sequence[int]) -> tuple[float, int]:
        """Take one step; returns the mean loss per unit and the size of the rows together."""
        self._objective.model.train()
        self._begin(rows)
        total = self._stepper.step(rows, self._step)
        if not math.isfinite(total):
            raise DataError(
                f"The loss became {total} at step {self._step + 1}.",
                where="training",
                remedy="Lower the learning rate.",
            )
        return total, sum(self._objective.sizes[row] for row in rows)

    def _begin(self, rows: Sequence[int]) -> None:
        """Let an objective whose rows depend on each other see them together, before they are cut."""
        if isinstance(self._objective, Together):
            self._objective.begin(self._step, rows)

    def _evaluate(self) -> None:
        """Note the loss of the dev rows."""
        if not self._dev:
            return
        start = time.monotonic()
        loss = self._mean_loss(self._dev)
        self._dev_curve.append((self._step, loss))
        self.dev_seconds = time.monotonic() - start
        self._job.emit("metrics", self._step, dev_loss=round(loss, 6))

    def _mean_loss(self, rows: Sequence[int]) -> float:
        """Mean loss per unit, without training."""
        sizes = self._objective.sizes
        self._objective.model.eval()
        ordered = sorted(rows, key=lambda row: (sizes[row], row))
        total, units = 0.0, sum(self._objective.units[row] for row in ordered)
        with torch.no_grad():
            for at in range(0, len(ordered), _DEV_ROWS):
                self._begin(ordered[at : at + _DEV_ROWS])
                for piece in micro_batches(sizes, ordered[at : at + _DEV_ROWS], self._objective.micro):
                    total += float(self._objective.loss(piece))
        return total / max(1, units)

    def _learning_rate(self, step: int) -> float:
        return self._spec.learning_rate * schedules.share(self._spec, step, self.steps)

    def _has_time(self, *, evaluate: bool = False) -> bool:
        """Whether another step (or an evaluation) and the evaluation at the end fit into the time limit."""
        if self._spec.max_seconds is None:
            return True
        step_seconds = max(self.step_seconds, default=0.0)
        # Before the first evaluation: forward alone takes about a third of a step, row by row.
        dev = self.dev_seconds or step_seconds / 2 * len(self._dev) / self._spec.batch_rows
        left = self._spec.max_seconds - (time.monotonic() - self._began) - dev - (dev if evaluate else step_seconds)
        if left <= 0 and self._step == 0:
            raise ResourceExhausted(
                f"The time limit of {self._spec.max_seconds:.0f} s is used up before the first step.",
                where="max_seconds",
                remedy="Allow more time, or train on fewer rows.",
            )
        return left > 0

    def _report(self, loss: float, tokens: int) -> None:
        mean = sum(self.step_seconds) / len(self.step_seconds)
        self._job.emit(
            "progress",
            self._step,
            phase="train",
            steps=self.steps,
            epoch=round(self._step / self.epoch_steps, 3),
            loss=round(loss, 6),
            lr=self._learning_rate(self._step - 1),
            tokens_per_s=round(tokens / self.step_seconds[-1]),
            seconds_left=round(mean * (self._until - self._step), 1),
            **(self._objective.told if isinstance(self._objective, Together) else {}),
        )

    def _state(self) -> State:
        return self._resumed.model_copy(
            update={
                "step": self._step,
                "seconds": time.monotonic() - self._began,
                "tokens": self._tokens,
                "curve": tuple(self._curve),
                "dev_curve": tuple(self._dev_curve),
            }
        )

    def _save(self) -> None:
        rest: dict[str, Any] = {"stepper": self._stepper.state(), "random": torch.get_rng_state()}
        if self._accelerator.device.type == "cuda":
            rest["random_cuda"] = torch.cuda.get_rng_state()
        self._checkpoints.save(self._state(), self._objective.weights(), rest)
        self._job.emit("checkpoint", self._step)


def peak_bytes() -> int:
    """Most memory this process held so far: on the GPU if there is one, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
