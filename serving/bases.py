"""Which base's engine a request for texts goes to, where a service serves more than one."""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from moatelier.settings import settings


class Served(Protocol):
    """One base with its adapters."""

    base: str

    @property
    def mine(self) -> dict[str, Any]:
        """The adapters that are loaded on it by their names."""


P = TypeVar("P", bound=Served)


class Bases(Generic[P]):
    """The served bases; each is opened at its first use, and loaded at the first use of its engine.

    Args:
        first: The one that new tasks tune when nobody chooses; whatever no other knows is its own to refuse.
        make: Opens another base of `settings().text_bases`.
    """

    def __init__(self, first: P, make: Callable[[str], P]) -> None:
        self._make = make
        self.open: dict[str, P] = {first.base: first}
        self.first = first

    def of(self, model: str) -> P:
        """Where a model is: a base, or an adapter that was loaded."""
        if model in settings().more_bases:
            return self.of_base(model)
        return next((each for each in self.open.values() if model in each.mine), self.first)

    def of_base(self, base: str) -> P:
        """The engine of a base; the first one's for a base that is not served."""
        if base not in self.open and base in settings().more_bases:
            self.open[base] = self._make(base)
        return self.open.get(base, self.first)
