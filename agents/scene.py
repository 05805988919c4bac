"""What surrounds a request: the files that were sent, what the service offers, and a planner endpoint's proposal."""

from dataclasses import dataclass

from agents.proposals import Proposal
from moatelier.contracts import Contract, DataProfile


class Defaults(Contract):
    """What the service does when a person says nothing, and what it offers."""

    base: str
    """Catalogue id of the base that new tasks tune."""
    bases: tuple[str, ...] = ()
    """Catalogue ids of all bases that can be tuned."""
    trials: int = 3
    seconds: float = 1200.0
    """Training time over all trials."""
    methods: tuple[str, ...] = ("lora",)
    """Registered methods, the default first."""


@dataclass(frozen=True)
class Scene:
    """Everything but the person's words that a plan is made from."""

    profile: DataProfile | None
    test_profile: DataProfile | None
    train_file: str | None
    test_file: str | None
    defaults: Defaults
    proposal: Proposal
    words: str = ""
    """All the person's messages, for checking what a proposal quotes."""

    @property
    def bases(self) -> tuple[str, ...]:
        """The bases on offer, the default always among them."""
        return tuple(dict.fromkeys((self.defaults.base, *self.defaults.bases)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the training file's columns."""
        return tuple(column.name for column in self.profile.columns) if self.profile else ()
