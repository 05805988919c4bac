"""From the name in a request to what answers: the base, an adapter by its model id or digest, an alias, or `auto`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moatelier.contracts import RouteDecision
from moatelier.settings import settings
from modalities import catalogue
from serving.router import BASE
from store import adapters


@dataclass(frozen=True)
class Routed:
    """How `auto` chose.

    Attributes:
        region: What the router alone would have chosen: a digest, or `base`.
        probabilities: Candidate -> calibrated probability.
        propensity: The probability with which the chosen one was chosen.
        milliseconds: Spent on it, the embedding included.
    """

    region: str
    probabilities: dict[str, float]
    propensity: float
    milliseconds: float


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
        route: How `auto` chose; None when the request named what answers.
        modality: What it is asked about: `text`, `vision` or `audio`.
    """

    requested: str
    model: str
    served: str
    digest: str | None
    bundle: Path | None
    reason: Literal["exact", "alias", "base", "auto", "abstain"]
    route: Routed | None = None
    modality: str = "text"

    def decision(self, completion: str) -> RouteDecision:
        """The record of this choice for one completion."""
        made = RouteDecision(
            requested=self.requested, chosen=self.digest or self.model, reason=self.reason, completion=completion
        )
        if self.route is None:
            return made
        routed = {name: getattr(self.route, name) for name in ("region", "probabilities", "propensity")}
        return made.model_copy(update=routed | {"chosen": self.digest or BASE})

    @property
    def told(self) -> dict[str, Any]:
        """What the answer's `moatelier` field says of the route; nothing when the request named what answers."""
        if self.route is None:
            return {}
        route = self.decision("").model_dump(mode="json", exclude={"completion"})
        return {"moatelier": {"route": route | {"model": self.model, "milliseconds": self.route.milliseconds}}}

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
    if name in settings().text_bases:
        return Target(name, name, name, None, None, "base")
    if name in (settings().vision_base, settings().audio_base):
        return Target(name, name, name, None, None, "base", modality=catalogue.get(name).kind)
    record = adapters.get(project, name)
    served = f"{record.suffix}@{record.digest}"
    reason: Literal["exact", "alias"] = "alias" if name in record.aliases else "exact"
    return Target(
        name,
        record.model_id,
        served,
        record.digest,
        adapters.bundle_path(record.digest),
        reason,
        modality=record.manifest.modality,
    )
