"""`model: "auto"`: the request's own words choose who answers, or the picture or recording that it brings.

What the person said last is embedded by the engine, ranked by the router, and the bandit has the last word. A picture
or a recording decides about the modality and is embedded instead, by the base that its adapters stand on; where there
are both, the adapters for both are ranked side by side. Without an adapter to choose from, or without the embedding
model, the request is refused: answering from the base as if it had been routed would hide that nothing was.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from moatelier import genai, tracing
from moatelier.errors import Conflict, MoatelierError, NotFound
from moatelier.settings import settings
from modalities import catalogue
from serving import parts
from serving.bandit import Bandit, Choice
from serving.brief import Brief
from serving.roster import Roster, Rosters
from serving.router import BASE, Ranked, routed_text
from serving.targets import Routed, Target
from serving.upstream import Upstream
from store import feedback

AUTO = "auto"
TALLIES_S = 2.0
"""Feedback moves routes after at most this long."""


MODALITIES: Mapping[parts.Medium, str] = {"image": "vision", "audio": "audio"}


def no_adapters(foreign: Mapping[str, str], modality: str = "text") -> MoatelierError:
    """Why `auto` is no model: nobody has joined, or all have by the vectors of another embedding model.

    Args:
        foreign: As in a `Roster`.
        modality: Of the request.
    """
    named = catalogue.embedder(modality)
    variable = "MOATELIER_EMBEDDING" if modality == "text" else f"MOATELIER_{modality.upper()}_BASE"
    if foreign:
        told = (f"other files of {name}" if name == named else name for name in sorted(set(foreign.values())))
        return Conflict(
            f"The profiles that `auto` chooses by were made with {', '.join(told)}, not with {named}, which "
            f"{variable} names; vectors of two models cannot be compared.",
            where="model",
            remedy="`moatelier adapters route NAME` makes them anew, or set the variable back.",
        )
    return NotFound(
        "`auto` has no adapter to choose from yet" + (f" for {modality}." if modality != "text" else "."),
        where="model",
        remedy="It knows adapters whose task reached its goal while the embedding model was there "
        f"(`moatelier models pull {named}`).",
    )


class Auto:
    """Routes requests.

    Args:
        upstream: The engine, which embeds.
        targets: (project, model name) -> what answers under that name.
        seed: Of the bandit's draws; None takes a fresh one.
    """

    def __init__(self, upstream: Upstream, targets: Brief[tuple[str, str], Target], seed: int | None = None) -> None:
        self._upstream, self._targets = upstream, targets
        self._kept = Rosters()
        self._rosters = Brief(self._kept.get)
        self._tallies = Brief(feedback.tallies, seconds=TALLIES_S)
        self._random = np.random.default_rng(seed)

    def check(self, project: str) -> None:
        """Check that `auto` has adapters of any modality to choose from (blocking).

        Raises:
            NotFound: No adapter has joined.
            Conflict: Those that have joined did so by another embedding model.
        """
        if not self.offered(project):
            raise no_adapters(self._kept.get((project, "text")).foreign)

    def offered(self, project: str) -> bool:
        """Whether there are any (blocking)."""
        return any(self._kept.get((project, name)).embedding is not None for name in ("text", *MODALITIES.values()))

    async def target(self, project: str, messages: Sequence[Mapping[str, Any]]) -> Target:
        """What answers these messages, with how it was chosen.

        Raises:
            NotFound, Conflict: As `check` does.
            ModelUnavailable: The embedding model is not pulled.
            UpstreamError: The engine does not answer.
        """
        with tracing.span("route", {genai.REQUEST_MODEL: AUTO}) as current:
            target = await self._target(project, messages)
            told = {genai.RESPONSE_MODEL: target.model, genai.ROUTE_REASON: target.reason}
            assert target.route is not None
            current.set_attributes(told | {genai.ROUTE_CANDIDATES: len(target.route.probabilities)})
            return target

    async def _target(self, project: str, messages: Sequence[Mapping[str, Any]]) -> Target:
        begun = time.perf_counter()
        ranked = await self.ranked(project, messages)
        bandit = Bandit(await self._tallies.get(project), explore=settings().router_explore)
        choice = bandit.choose(ranked, self._random)
        name = settings().base if choice.chosen == BASE else choice.chosen
        target = await self._targets.get((project, name))
        return replace(
            target,
            requested=AUTO,
            reason="abstain" if choice.chosen == BASE else "auto",
            route=_routed(choice, 1000 * (time.perf_counter() - begun)),
        )

    async def ranked(self, project: str, messages: Sequence[Mapping[str, Any]]) -> Ranked:
        """The adapters by how well they fit these messages; raises as `target` does."""
        turns = [message for message in messages if isinstance(message, Mapping)]
        mediums = parts.mediums(turns)
        if not mediums:
            return await self._by_text(project, turns)
        rosters = {medium: await self._rosters.get((project, MODALITIES[medium])) for medium in mediums}
        known = {medium: roster for medium, roster in rosters.items() if roster.embedding is not None}
        if not known:
            raise no_adapters(rosters[mediums[0]].foreign, MODALITIES[mediums[0]])
        return together([await self._by_part(roster, parts.raw(turns, medium)) for medium, roster in known.items()])

    async def _by_text(self, project: str, turns: Sequence[Mapping[str, Any]]) -> Ranked:
        roster = await self._rosters.get((project, "text"))
        embedding = _require(roster)
        text = routed_text(turns)
        if not text:
            return Ranked((BASE,), (1.0,), -1.0)
        [vector] = await self._upstream.embeddings([text], embedding)
        return roster.router.route(vector)

    async def _by_part(self, roster: Roster, part: dict[str, Any] | None) -> Ranked:
        assert part is not None, "a medium that was found has a part"
        [vector] = await self._upstream.embeddings([part], _require(roster))
        return roster.router.route(vector)


def together(ranked: Sequence[Ranked]) -> Ranked:
    """The candidates for the parts of one request side by side: each part counts the same."""
    chances: dict[str, float] = {}
    for each in ranked:
        for name, chance in each.probabilities.items():
            chances[name] = chances.get(name, 0.0) + chance / len(ranked)
    order = sorted(chances, key=lambda name: -chances[name])
    return Ranked(tuple(order), tuple(chances[name] for name in order), max(each.cosine for each in ranked))


def _require(roster: Roster) -> str:
    """The embedding model of a roster that has anybody on it."""
    if roster.embedding is None:
        raise no_adapters(roster.foreign)
    return roster.embedding


def _routed(choice: Choice, milliseconds: float) -> Routed:
    chances = {name: round(chance, 6) for name, chance in choice.probabilities.items()}
    return Routed(choice.region, chances, choice.propensity, round(milliseconds, 2))
