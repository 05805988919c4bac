"""The training loop of every modality: micro-batches, a summed loss, checkpoints, a hard time limit.

The loss of a step is the sum over its units (trained tokens, pictures) divided by their number in the whole batch, so
that cutting the batch into micro-batches changes nothing (transformers#34191). Every step is a function of the state
before it, the seed and the step's number: a run that is killed and resumed ends with the same bits. What goes wrong on
the way is mended as `training.recovery` says.
"""

import math
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moatelier.contracts import Setback, TrainSpec
from moatelier.errors import Cancelled, Conflict, ResourceExhausted
from moatelier.faults import fault_point
from moatelier.job import Job
from training import methods, schedules, stepping
from training.batches import epoch_batches, part_of, steps_per_epoch
from training.checkpoint import Checkpoints, State
from training.means import Means
from training.objective import Objective, Together
from training.ranks import Ranks
from training.recovery import Diverged, Setbacks, random_state, restore_random

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
        before = job.folder.parent / spec.goes_on if spec.goes_on else None
        self._setbacks = Setbacks(job, state, before)
        spec = spec.model_copy(update={"learning_rate": spec.learning_rate / self._setbacks.divisor()})
        self._spec, self._objective, self._job = spec, objective, job
        self._train, self._dev = part_of(train_rows, spec.data_part), range(train_rows, len(objective.sizes))
        self._ranks = Ranks()
        self._ranks.need_parts(objective)
        self._means = Means(self._ranks, self._setbacks)
        self.epoch_steps = steps_per_epoch(len(self._train), spec.batch_rows)
        """Optimiser steps of an epoch."""
        self.steps = 0 if objective.solved else max(1, math.ceil(spec.epochs * self.epoch_steps))
        """Optimiser steps of the whole run."""
        self._until = min(self.steps, spec.until_steps or self.steps)
        stepper = methods.stepper(spec.method)
        self._stepper = stepping.make(spec, stepper, objective, self._means, self._learning_rate, self.steps)
        self._checkpoints = Checkpoints(job.folder)
        self._device = str(self._ranks.accelerator.device)
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
            ResourceExhausted: Not even one step fits into the time limit, or a row into memory.
            Diverged: A loss, its gradients or the weights are not finite; `go_back` says where to begin again.
            Conflict: The checkpoint from which to go on is another training's, or is gone.
        """
        self._resume()
        finished = True
        while self._step < self._until:
            if self._ranks.any(not self._has_time()):
                finished = False
                break
            self._one_step()
        if not self.steps:
            self._curve = [(0, self._mean_loss(self._train))]
        if not self._dev_curve or self._dev_curve[-1][0] != self._step:
            self._evaluate()
        self._save()
        return self.state, finished

    def go_back(self, error: Diverged) -> None:
        """Note that the next loop over a fresh objective goes on from before the divergence, more slowly.

        Raises:
            DataError: It has gone back often enough.
        """
        self._setbacks.go_back(error, self._checkpoints.scheduled)

    @property
    def setbacks(self) -> tuple[Setback, ...]:
        """What went wrong so far and was mended."""
        return self._setbacks.all

    def best(self) -> tuple[int, dict[str, Tensor]] | None:
        """Step and weights of the lowest dev loss so far, else of the last checkpoint; None before there is any."""
        if found := self._checkpoints.best(self._resumed):
            return found
        last = self._checkpoints.latest(self._resumed, "cpu", self._setbacks.usable)
        return (last[0].step, last[1]) if last else None

    def _resume(self) -> None:
        self._began -= self._setbacks.seconds
        with self._ranks.accelerator.main_process_first():  # it removes what is of no use
            found = self._checkpoints.latest(self._resumed, self._device, self._setbacks.usable) or self._paused()
        if found is None:
            self._ranks.draw_apart(self._spec.seed, 0)
            return
        state, weights, rest = found
        self._objective.restore(weights)
        self._stepper.restore(rest["stepper"], state.step)
        restore_random(rest)
        self._ranks.draw_apart(self._spec.seed, state.step)
        self._step, self._tokens = state.step, state.tokens
        self._curve, self._dev_curve = list(state.curve), list(state.dev_curve)
        self._began = time.monotonic() - (max(state.seconds, self._setbacks.seconds) + self._resumed.seconds)
        self._job.emit("resumed", state.step, seconds=round(state.seconds, 1))

    def _paused(self) -> tuple[State, dict[str, Tensor], dict[str, Any]] | None:
        """The checkpoint that the paused job left from which this one goes on; None when it begins anew."""
        if self._spec.goes_on is None:
            return None
        folder = self._job.folder.parent / self._spec.goes_on
        if (found := Checkpoints(folder).latest(self._resumed, self._device, lambda _: True)) is None:
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
        if self._step % self.epoch_steps == 0 and self._step < self.steps:
            if not self._ranks.any(not self._has_time(evaluate=True)):
                self._evaluate()
        due = self._step % self._spec.checkpoint_every == 0 and self._step < self._until
        stop = self._ranks.any(self._job.should_stop)
        if due or stop:
            self._save(stopped=not due)
        if stop:
            raise Cancelled(f"The job was stopped: {self._job.stop_reason}.", where=str(self._job.folder))

    def _batch(self) -> list[int]:
        epoch, at = divmod(self._step, self.epoch_steps)
        sizes = [self._objective.sizes[row] for row in self._train]
        return [self._train[row] for row in epoch_batches(sizes, self._spec.batch_rows, self._spec.seed, epoch)[at]]

    def _train_on(self, rows: Sequence[int]) -> tuple[float, int]:
        """Take one step; returns the mean loss per unit and the size of the rows together."""
        self._objective.model.train()
        self._begin(rows)
        total = self._stepper.step(rows, self._step)
        self._need_finite(total, "The loss or the norm of its gradients")
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
        self._need_finite(loss, "The dev loss")
        if loss < min((other for _, other in self._dev_curve), default=math.inf):
            self._keep_best()
        self._dev_curve.append((self._step, loss))
        self.dev_seconds = time.monotonic() - start
        self._job.emit("metrics", self._step, dev_loss=round(loss, 6))

    def _keep_best(self) -> None:
        weights = self._objective.weights()
        if self._job.leads:
            self._checkpoints.keep_best(self.state, weights)

    def _mean_loss(self, rows: Sequence[int]) -> float:
        """Mean loss per unit, without training."""
        sizes = self._objective.sizes
        self._objective.model.eval()
        ordered = sorted(rows, key=lambda row: (sizes[row], row))
        total, units = 0.0, sum(self._objective.units[row] for row in ordered)

        def part(piece: list[int]) -> float:
            return float(self._objective.loss(piece))

        with torch.no_grad():
            for at in range(0, len(ordered), _DEV_ROWS):
                some = ordered[at : at + _DEV_ROWS]
                self._begin(some)
                total += self._means.sum(self._objective, some, 2 * self._step + 1, part, lambda: None)
        return total / max(1, units)

    def _need_finite(self, figure: float, what: str) -> None:
        if not math.isfinite(figure):
            raise Diverged(self._step + 1, f"{what} became {figure}", time.monotonic() - self._began)

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

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._resumed.model_copy(
            update={
                "returns": len(self._setbacks.returns),
                "step": self._step,
                "seconds": time.monotonic() - self._began,
                "tokens": self._tokens,
                "curve": tuple(self._curve),
                "dev_curve": tuple(self._dev_curve),
            }
        )

    def _save(self, *, stopped: bool = False) -> None:
        weights = self._objective.weights()
        # Steps that were all finite may end in weights that are not: nothing can be gone on with from those.
        self._need_finite(sum(float(tensor.float().sum()) for tensor in weights.values()), "The sum of the weights")
        if self._job.leads:
            rest: dict[str, Any] = {"stepper": self._stepper.state(), **random_state()}
            self._checkpoints.save(self.state, weights, rest, stopped=stopped)
        self._ranks.wait()
        self._job.emit("checkpoint", self._step)


def peak_bytes() -> int:
    """Most memory this process held so far: on the GPU if there is one, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
