"""What a training does about a loss that is not finite and about memory that runs out.

What it did is written to `<job>/setbacks.json` before it goes on, so that a run that is killed in the middle takes the
same turns again and ends with the same bits. Going back is starting again, as after a kill, with a third of the rate.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from moatelier.contracts import Contract, Setback
from moatelier.errors import DataError, ResourceExhausted
from moatelier.ids import canonical_json
from moatelier.job import Job, write_atomically
from training.batches import micro_batches
from training.checkpoint import State
from training.objective import Objective

RETURNS = 2
"""How often a training goes back before it gives up."""
_SLOWER = 3.0
_SIGNS = ("can't allocate memory", "not enough memory", "out of memory")

T = TypeVar("T")


class Diverged(Exception):
    """A step's loss, its gradients or the weights before it are not finite; ends one attempt, never a job.

    Args:
        step: The step that could not be taken.
        found: What was not finite.
        seconds: Spent until then.
    """

    def __init__(self, step: int, found: str, seconds: float) -> None:
        super().__init__(f"{found} at step {step}")
        self.step, self.found, self.seconds = step, found, seconds


class _Kept(Contract):
    spec: str
    data: str
    setbacks: tuple[Setback, ...]


class Setbacks:
    """What went wrong so far in a job, and what is done about it from then on.

    Args:
        job: In whose folder it is written, and by whose events it is told.
        state: Digests of spec and data; setbacks of other ones do not count.
        before: The folder of the paused job from which this one goes on, with its setbacks.
    """

    def __init__(self, job: Job, state: State, before: Path | None = None) -> None:
        self._job, self._file = job, job.folder / "setbacks.json"
        self._spec, self._data = state.spec, state.data
        self.all: tuple[Setback, ...] = _read(self._file, state)
        if before is not None and not self.all:
            self.all = _read(before / self._file.name, state)

    @property
    def returns(self) -> tuple[Setback, ...]:
        """Those on which the training went back to a checkpoint."""
        return tuple(setback for setback in self.all if setback.kind == "diverged")

    @property
    def seconds(self) -> float:
        """Spent by the training when it last went back."""
        return max((setback.seconds for setback in self.returns), default=0.0)

    def divisor(self) -> float:
        """What the learning rate has been divided by so far."""
        return _SLOWER ** len(self.returns)

    def usable(self, state: State) -> bool:
        """Whether a checkpoint lies on the way that counts, and not on one that was left by going back."""
        return all(state.step <= setback.back_to for setback in self.returns[state.returns :])

    def go_back(self, error: Diverged, good: Sequence[int]) -> None:
        """Note that the training goes back.

        Args:
            error: Why.
            good: Steps of the scheduled checkpoints, ascending.

        Raises:
            DataError: It has gone back `RETURNS` times already.
        """
        if len(self.returns) == RETURNS:
            raise DataError(
                f"{error.found} at step {error.step}, and so it did before at higher learning rates: "
                f"the training went back {RETURNS} times and tried a third each time.",
                where="training",
                remedy="Lower the learning rate.",
            )
        # Weights from which the very next loss was not finite are not good ones.
        back_to = max((step for step in good if step <= error.step - 2), default=0)
        self._add(Setback(kind="diverged", step=error.step, back_to=back_to, seconds=error.seconds), what=error.found)

    def within_memory(
        self,
        objective: Objective,
        rows: Sequence[int],
        moment: int,
        work: Callable[[list[int]], float],
        undo: Callable[[], None],
    ) -> float:
        """The sum of `work` over micro-batches of the rows; where memory runs out, all over again in smaller ones.

        Args:
            objective: Gives sizes and the largest micro-batch.
            rows: A step's, or those of an evaluation.
            moment: Twice the number of whole steps, and one more in an evaluation after them.
            work: Called with each micro-batch. What it draws from torch's generator is drawn again.
            undo: Forget what `work` did.

        Raises:
            ResourceExhausted: A row does not fit that cannot be cut.
        """
        while True:
            pieces = micro_batches(objective.sizes, rows, self._micro(objective, moment))
            random, done, total = random_state(), 0, 0.0
            try:
                for piece in pieces:
                    total += work(piece)
                    done += 1
                return total
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Out here the error is gone, and with it the frames that held the activations.
            undo()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            restore_random(random)
            self._shrink(objective, pieces[done], moment)

    def _micro(self, objective: Objective, moment: int) -> int:
        found = [setback for setback in self.all if setback.kind == "memory" and setback.moment <= moment]
        if any(setback.recompute for setback in found):
            objective.recompute = True  # type: ignore[attr-defined]  # noted only where it has this
        return min((setback.micro for setback in found if setback.micro), default=objective.micro)

    def _shrink(self, objective: Objective, piece: list[int], moment: int) -> None:
        """Note how to go on without so much memory as this micro-batch needed."""
        longest = max(objective.sizes[row] for row in piece)
        if len(piece) > 1 and not getattr(objective, "indivisible", False):
            change = {"micro": len(piece) // 2 * longest}
        elif getattr(objective, "recompute", True):
            raise ResourceExhausted(
                f"Memory ran out on {len(piece)} row(s) that cannot be cut, the longest of size {longest}.",
                where=f"step {moment // 2 + 1}",
                remedy="Shorten the longest rows, tune fewer layers or a smaller base, or free some memory.",
            )
        else:
            change = {"recompute": True}
        self._add(Setback(kind="memory", step=moment // 2 + 1, moment=moment, **change), rows=len(piece))

    def _add(self, setback: Setback, **told: Any) -> None:
        self.all = (*self.all, setback)
        if not self._job.leads:  # the first process notes the same, but for memory, which is each one's own
            return
        kept = _Kept(spec=self._spec, data=self._data, setbacks=self.all)
        write_atomically(self._file, canonical_json(kept.model_dump(mode="json")))
        body = setback.model_dump(mode="json", exclude={"kind", "step", "moment", "seconds"}, exclude_defaults=True)
        if setback.kind == "diverged":
            body |= {"back_to": setback.back_to, "learning_rate_divided_by": self.divisor()}
        self._job.emit("setback", len(self.all), trouble=setback.kind, at=setback.step, **body, **told)


def _read(file: Path, state: State) -> tuple[Setback, ...]:
    try:
        kept = _Kept.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return ()
    return kept.setbacks if (kept.spec, kept.data) == (state.spec, state.data) else ()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that there is no more memory, on the GPU or beside it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def random_state() -> dict[str, torch.Tensor]:
    """The state of torch's generators, as a checkpoint holds it."""
    state = {"random": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random_cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random(state: dict[str, Any]) -> None:
    """Put the generators back."""
    torch.set_rng_state(state["random"].cpu())
    if "random_cuda" in state:
        torch.cuda.set_rng_state(state["random_cuda"].cpu())
