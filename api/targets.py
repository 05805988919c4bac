"""From the name in a request to what answers: the base, an adapter by its model id or digest, or an alias."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moatelier.contracts import RouteDecision
from moatelier.settings import settings
from store import adapters


@dataclass(frozen=True)
class Target:
    """What answers under a name.

    Attributes:
        requested: The name in the request.
        model: The public id of what answers, never an alias.
        served: The name on the engine. It holds the content's digest, so a name never means two things there.
        digest: The adapter's digest; None for the base.
        bundle: The folder the engine loads the adapter from; None for the base.
        reason: How the name led here.
    """

    requested: str
    model: str
    served: str
    digest: str | None
    bundle: Path | None
    reason: Literal["exact", "alias", "base"]

    def decision(self, completion: str) -> RouteDecision:
        """The record of this choice for one completion."""
        chosen = self.digest or self.model
        return RouteDecision(requested=self.requested, chosen=chosen, reason=self.reason, completion=completion)

    @property
    def fingerprint(self) -> str:
        """`system_fingerprint` of answers: changes exactly when the weights behind a name do."""
        return f"fp_{(self.digest or self.model)[:24]}"

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that name the adapter."""
        return {"x-moatelier-adapter": self.digest} if self.digest else {}


def resolve(wanted: tuple[str, str]) -> Target:
    """The target of (project, name).

    Raises:
        NotFound: The project knows no such model; the error lists near names.
    """
    project, name = wanted
    base = settings().base
    if name == base:
        return Target(name, base, base, None, None, "base")
    record = adapters.get(project, name)
    served = f"{record.suffix}@{record.digest}"
    reason: Literal["exact", "alias"] = "alias" if name in record.aliases else "exact"
    return Target(name, record.model_id, served, record.digest, adapters.bundle_path(record.digest), reason)
