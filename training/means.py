"""What the steps of a training work with: the processes that share them, and what is known of their memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moatelier.errors import InvalidRequest
from training.objective import Objective
from training.ranks import Ranks
from training.recovery import Setbacks


@dataclass(frozen=True)
class Means:
    """See the module."""

    ranks: Ranks
    setbacks: Setbacks

    @property
    def accelerator(self) -> Any:
        """accelerate's, which places the work."""
        return self.ranks.accelerator

    def sum(
        self,
        objective: Objective,
        rows: Sequence[int],
        moment: int,
        work: Callable[[list[int]], float],
        undo: Callable[[], None],
    ) -> float:
        """The sum of `work` over micro-batches of the rows, over all processes; see `Setbacks.within_memory`."""
        share = self.ranks.share(rows)
        return self.ranks.total(self.setbacks.within_memory(objective, share, moment, work, undo))

    def need_alone(self, method: str) -> None:
        """Refuse several processes.

        Raises:
            InvalidRequest: There are.
        """
        if not self.ranks.alone:
            raise InvalidRequest(
                f"The steps of {method} cannot be shared among processes.",
                where="MOATELIER_TRAINING_PROCESSES",
                remedy="Set it to 1 for this method.",
            )
