"""One training in several processes, each with its share of every batch; gradients are added up before each step.

By `MOATELIER_TRAINING_PROCESSES` a job's process starts the others itself; under `torchrun` or `accelerate launch` it
is one of theirs. The first one, which leads, alone writes: events, checkpoints, the bundle, the result. Each process
holds the whole model.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from moatelier.errors import InvalidRequest
from moatelier.ids import digest_json
from moatelier.job import WORKER_PIPE, Job
from moatelier.settings import settings
from modalities.machine import set_threads
from training.objective import Objective

LOST = 4
"""Exit status where another of the processes died: the worker starts them all again from the last checkpoint."""


class Ranks:
    """This process among those of the training."""

    def __init__(self) -> None:
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.number, self._count = self.accelerator.process_index, self.accelerator.num_processes

    @property
    def alone(self) -> bool:
        """There is no other process."""
        return bool(self._count == 1)

    def need_parts(self, objective: Objective) -> None:
        """Refuse an objective whose rows cannot be shared out.

        Raises:
            InvalidRequest: Its rows are compared with each other.
        """
        if not self.alone and getattr(objective, "indivisible", False):
            raise InvalidRequest(
                f"The rows of a step are compared with each other, and {self._count} processes would part them.",
                where="MOATELIER_TRAINING_PROCESSES",
                remedy="Set it to 1 for this method.",
            )

    def share(self, rows: Sequence[int]) -> Sequence[int]:
        """This process's part of some rows; it may be none."""
        return rows if self.alone else rows[self.number :: self._count]

    def total(self, figure: float) -> float:
        """The sum of the processes' figures."""
        return figure if self.alone else float(self._sum(torch.tensor([figure], dtype=torch.float64)))

    def any(self, flag: bool) -> bool:
        """Whether one of the processes says so; they have to stop at the same step."""
        return flag if self.alone else self.total(float(flag)) > 0

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every process the sum of the processes' gradients."""
        if self.alone:
            return
        for kind in sorted({parameter.dtype for parameter in parameters}, key=str):
            some = [parameter for parameter in parameters if parameter.dtype == kind]
            flat = self._sum(torch.cat([_gradient(parameter).flatten() for parameter in some]))
            parts = torch.split(flat, [parameter.numel() for parameter in some])
            for parameter, part in zip(some, parts, strict=True):
                parameter.grad = part.view_as(parameter)

    def _sum(self, tensor: Tensor) -> Tensor:
        summed: Tensor = self.accelerator.reduce(tensor.to(self.accelerator.device), "sum")
        return summed

    def draw_apart(self, seed: int, step: int) -> None:
        """Let processes beside the first draw other numbers than that."""
        if self.number:
            torch.manual_seed(int(digest_json([seed, step, self.number])[:15], 16))

    def wait(self) -> None:
        """Go on when all are here."""
        self.accelerator.wait_for_everyone()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@contextmanager
def others(job: Job, count: int) -> Iterator[None]:
    """Start the processes beside this one, which leads; they end when it does, however it does.

    Args:
        job: This process's; the others get its spec and folder.
        count: Of all processes. Nothing happens for 1, and in a process that somebody else has made one of several.
    """
    if count == 1 or not job.leads or job.launched:
        yield
        return
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(count)}
    meeting["MOATELIER_THREADS"] = str(max(1, set_threads() // count))
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "training.run", *sys.argv[1:]]
    started = []
    for rank in range(1, count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), WORKER_PIPE: str(read_end)}
        # In this process's group: who kills that kills them too.
        started.append(subprocess.Popen(command, pass_fds=(read_end,), env={**os.environ, **meeting, **own}))
    os.close(read_end)
    os.environ.update(meeting | {"RANK": "0", "LOCAL_RANK": "0"})
    settings.cache_clear()
    try:
        yield
        for process in started:
            process.wait(60)
    except RuntimeError as error:  # the connection to it breaks as well
        if any(_ended_badly(process) for process in started):
            raise SystemExit(LOST) from error
        raise
    finally:
        os.close(write_end)
        for process in started:
            process.kill()
            process.wait()


def _ended_badly(process: subprocess.Popen[bytes]) -> bool:
    try:
        return process.wait(2) != 0
    except subprocess.TimeoutExpired:
        return False


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])
