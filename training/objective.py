"""What the loop minimises: each modality's model and rows behind one face."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class Objective(Protocol):
    """A model with a fresh adapter, and the loss of its rows: training rows first, then dev rows.

    Attributes:
        model: Its parameters that require a gradient are trained.
        sizes: Of each row: its tokens, or 1 where all rows are of one size. Rows alike in it are put together.
        units: Of each row: how many terms its loss sums, such as trained tokens.
        micro: Largest sum of sizes, as if padded, that goes through the model at once.
        solved: Nothing is left to be done in steps: what is tuned was computed at once.

    One whose rows are compared with each other says so by an attribute `indivisible`; one that can compute activations
    twice instead of keeping them, by an attribute `recompute` that may be set.
    """

    model: Any
    sizes: Sequence[int]
    units: Sequence[int]
    micro: int
    solved: bool

    def loss(self, rows: Sequence[int]) -> Tensor:
        """The sum of the rows' losses in nats, a scalar in float32. In training it may draw from torch's generator."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The adapter's tensors on the CPU, as its bundle holds them."""
        ...

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put them back, bit by bit."""
        ...


@runtime_checkable
class Stepwise(Protocol):
    """What an objective also offers whose method does more than the optimiser's steps."""

    def after_step(self, step: int, steps: int) -> None:
        """Called after each step of the optimiser, while the gradients are still there; `step` counts from 1."""
        ...

    def state(self) -> dict[str, Any]:
        """What is remembered from step to step besides the weights: tensors, numbers, strings, containers of these."""
        ...

    def restore_state(self, state: dict[str, Any]) -> None:
        """Put it back."""
        ...


@runtime_checkable
class Together(Protocol):
    """What an objective has besides whose rows depend on each other within a step, or are made in it.

    Attributes:
        told: Figures of the last step for its progress event.
    """

    told: dict[str, float]

    def begin(self, step: int, rows: Sequence[int]) -> None:
        """See the rows of a whole step, or of a piece of the dev rows, before `loss` is asked for parts of them.

        Must be a function of the weights, the spec's seed, `step` and `rows` alone.
        """
        ...


class Prepared(Objective, Protocol):
    """An objective together with what its bundle will hold.

    Attributes:
        data: Digest of the rows as they are trained on.
        seconds: Spent so far on what counts as training, such as running the frozen layers once.
        precision: What the base computes in.
    """

    data: str
    seconds: float
    precision: str

    def files(self) -> dict[str, bytes]:
        """The bundle's files but for its manifest."""
        ...

    def manifest(self) -> dict[str, Any]:
        """The manifest's fields that the base and the rows fix."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...
