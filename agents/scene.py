"""What surrounds a request: the files that were sent, what the service offers, and a planner endpoint's proposal."""

from dataclasses import dataclass

from agents.proposals import Proposal
from moatelier.contracts import AnyProfile, AudioProfile, Contract, DataProfile, ImageProfile


class Offer(Contract):
    """What the service tunes of one modality."""

    base: str
    """Catalogue id of the base that new tasks tune."""
    bases: tuple[str, ...] = ()
    """Catalogue ids of all bases that can be tuned."""
    methods: tuple[str, ...]
    """Registered methods, the default first."""


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
    others: dict[str, Offer] = {}
    """Modality -> what is offered for it; the fields above are those of text."""

    def of(self, modality: str) -> "Defaults":
        """The same for data of one modality."""
        offer = self.others.get(modality)
        return self.model_copy(update=dict(offer)) if offer else self


@dataclass(frozen=True)
class Scene:
    """Everything but the person's words that a plan is made from."""

    profile: AnyProfile | None
    test_profile: AnyProfile | None
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
    def file(self) -> str:
        """What the training file is called."""
        return self.profile.name if self.profile else "The file"

    @property
    def modality(self) -> str:
        """What the training file holds."""
        return self.profile.modality if self.profile else "text"

    @property
    def table(self) -> DataProfile | None:
        """The training file, if it is a table of texts."""
        return self.profile if isinstance(self.profile, DataProfile) else None

    @property
    def media(self) -> ImageProfile | AudioProfile | None:
        """The training file, if it holds pictures or recordings."""
        return None if isinstance(self.profile, DataProfile) else self.profile

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the training file's columns."""
        return columns_of(self.profile) if self.profile else ()


def columns_of(profile: AnyProfile) -> tuple[str, ...]:
    """The names of a file's columns; of pictures or recordings those of the table among them."""
    return tuple(column.name for column in profile.columns) if isinstance(profile, DataProfile) else profile.headers
