"""From the name in a request to what answers: the base, an adapter by its model id or digest, an alias, or `auto`.

An alias with a rollout under way leads to two: `Target.drawn` says which of them a subject is answered by. The draw is
a hash of rollout and subject, so that whoever was answered by the challenger is so until the end, in every process.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from moatelier.contracts import RouteDecision, Side
from moatelier.ids import digest_json
from moatelier.settings import settings
from modalities import catalogue
from serving.router import BASE
from store import adapters, rollouts


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
class Split:
    """A rollout, as whoever asks by its alias meets it.

    Attributes:
        rollout: Its id.
        shadow: The challenger answers unseen; nobody is drawn.
        share: Of the subjects that the challenger answers.
        slow_s: An answer that takes longer counts as none.
        challenger: What answers them.
    """

    rollout: str
    shadow: bool
    share: float
    slow_s: float
    challenger: "Target"

    def side(self, subject: str) -> Side:
        """Who answers a subject."""
        return "challenger" if not self.shadow and place(self.rollout, subject) < self.share else "champion"


def place(rollout: str, subject: str) -> float:
    """Where a subject stands in a rollout, evenly spread over 0 to 1."""
    return int(digest_json([rollout, subject])[:13], 16) / 16**13


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
        labels: Of a classifier: what its answers are.
        split: The alias's rollout; None when it has none.
        rollout, side: Which rollout has drawn this one, and as what.
        subject: For whom, as a digest; None unless the request named a user.
    """

    requested: str
    model: str
    served: str
    digest: str | None
    bundle: Path | None
    reason: Literal["exact", "alias", "base", "auto", "abstain"]
    route: Routed | None = None
    modality: str = "text"
    labels: tuple[str, ...] = ()
    split: Split | None = None
    rollout: str | None = None
    side: Side | None = None
    subject: str | None = None

    def drawn(self, subject: str) -> "Target":
        """What answers this subject: the challenger of a rollout for its share of them, else this one."""
        if self.split is None:
            return self
        side = self.split.side(subject)
        chosen = replace(self.split.challenger, requested=self.requested) if side == "challenger" else self
        return replace(chosen, reason="alias", rollout=self.split.rollout, side=side, split=self.split)

    def decision(self, completion: str) -> RouteDecision:
        """The record of this choice for one completion."""
        made = RouteDecision(
            requested=self.requested,
            chosen=self.digest or self.model,
            reason=self.reason,
            completion=completion,
            rollout=self.rollout,
            side=self.side,
            subject=self.subject,
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
    if name not in record.aliases:
        return _target(name, record, "exact")
    found = _target(name, record, "alias")
    going = rollouts.under_way(project, name)
    if going is None or going.champion != record.digest:
        return found
    challenger = _target(name, adapters.get(project, going.challenger), "alias")
    split = Split(going.id, going.state == "shadow", going.plan.share, going.plan.slow_s, challenger)
    return replace(found, split=split)


def _target(name: str, record: adapters.AdapterRecord, reason: Literal["exact", "alias"]) -> Target:
    return Target(
        name,
        record.model_id,
        f"{record.suffix}@{record.digest}",
        record.digest,
        adapters.bundle_path(record.digest),
        reason,
        modality=record.manifest.modality,
        labels=record.manifest.labels if record.manifest.kind == "classification" else (),
    )
