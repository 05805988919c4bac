"""What the nodes of graphs/inference.py do with one model: hear it, in time, or know why not."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moatelier.contracts import Proposal
from moatelier.errors import MoatelierError, UpstreamError
from serving import moa
from serving.asking import Asker, Question
from serving.mixtures import Mixture
from serving.moa import Call
from serving.prompts import Messages
from serving.quorum import Late, Quorum
from serving.router import Ranked
from serving.targets import Target

Tell = Callable[[dict[str, Any]], None]
RANK_S = 10.0
"""The router's word is worth so much waiting; the first request may load the embedding model."""


@dataclass(frozen=True)
class Work:
    """What the nodes of one request have at hand.

    Attributes:
        mixture: The recipe.
        asker: Asks models.
        question: The request's fields, and what else goes with every call.
        conversation: The request's messages.
        rank: The router's word on the conversation.
        find: Digest -> an adapter that the router brings in.
        tell: Hears of progress.
        say: Hears the answer's pieces as they come; None when the answer is wanted whole.
    """

    mixture: Mixture
    asker: Asker
    question: Question
    conversation: Messages
    rank: Callable[[], Awaitable[Ranked]]
    find: Callable[[str], Awaitable[Target]]
    tell: Tell
    say: Callable[[str], None] | None


async def ranked(work: Work) -> tuple[Ranked | None, MoatelierError | None]:
    """The router's word on the conversation, if the recipe needs it; without one, why."""
    if not work.mixture.recipe.routed:
        return None, None
    try:
        async with asyncio.timeout(RANK_S):
            return await work.rank(), None
    except TimeoutError:
        return None, UpstreamError(f"No word within {RANK_S:g} s.", remedy="Ask again.")
    except MoatelierError as error:  # without adapters on its roster, say: a recipe that names its own can do without
        return None, error


async def found(work: Work, word: Ranked | None) -> dict[str, Target]:
    """Digest -> the adapters that the router's word brings in."""
    known: dict[str, Target] = {}
    for digest in moa.wanted(work.mixture, word):
        try:
            known[digest] = await work.find(digest)
        except MoatelierError:  # it has left since the roster was read
            continue
    return known


async def propose_one(work: Work, call: Call, messages: Messages, quorum: Quorum) -> Proposal:
    """Ask one model of a layer; what goes wrong becomes the proposal's error."""
    work.tell(_progress("asked", call))
    begun = time.perf_counter()
    try:
        proposal = await quorum.run(work.asker.ask(call, messages, work.question))
    except Late:
        proposal = _late(work, call, begun, "Its layer went on without it.")
    work.tell(_progress("failed" if proposal.error else "answered", call, proposal))
    return proposal


def _late(work: Work, call: Call, begun: float, reason: str) -> Proposal:
    work.asker.late(call)
    return Proposal(
        layer=call.layer,
        place=call.place,
        model=call.label,
        adapter=call.adapter,
        prior=call.prior,
        error="late",
        reason=reason,
        milliseconds=round(1000 * (time.perf_counter() - begun), 2),
    )


def _progress(event: str, call: Call, proposal: Proposal | None = None) -> dict[str, Any]:
    told: dict[str, Any] = {"event": event, "layer": call.layer, "place": call.place, "model": call.label}
    if proposal is not None:
        told |= {"milliseconds": proposal.milliseconds, "tokens": proposal.completion_tokens}
        told |= {"error": proposal.error} if proposal.error else {}
    return told


async def speak(work: Work, call: Call, messages: Messages, limit_s: float) -> Proposal:
    """Ask for the answer itself, piece by piece where that is wanted.

    Raises:
        MoatelierError: It broke off after its first words were sent: there is no taking them back.
    """
    work.tell(_progress("asked", call))
    begun = time.perf_counter()
    heard: list[str] = []

    def say(piece: str) -> None:
        heard.append(piece)
        assert work.say is not None
        work.say(piece)

    try:
        async with asyncio.timeout(max(0.001, limit_s)):
            proposal = await work.asker.ask(call, messages, work.question, say if work.say else None)
    except TimeoutError:
        proposal = _late(work, call, begun, f"No whole answer within {limit_s:g} s.")
    work.tell(_progress("failed" if proposal.error else "answered", call, proposal))
    if proposal.error and heard:
        raise UpstreamError(f"The answer broke off: {proposal.reason}", where=call.label, remedy="Ask again.")
    return proposal.model_copy(update={"text": ""}) if proposal.error else proposal


def in_order(proposals: Sequence[Proposal]) -> list[Proposal]:
    """By layer and place."""
    return sorted(proposals, key=lambda proposal: (proposal.layer, proposal.place))


def failure(proposals: Sequence[Proposal]) -> MoatelierError:
    """Why nobody answered: what all say alike, when it is the request's fault; else that the upstreams failed."""
    first = MoatelierError.from_dict({"code": proposals[0].error, "what": proposals[0].reason})
    if first.status < 500 and len({proposal.error for proposal in proposals}) == 1:
        return first
    told = "; ".join(f"{proposal.model}: {proposal.reason}" for proposal in proposals[:4])
    return UpstreamError(f"None of the recipe's {len(proposals)} proposers answered. {told}", remedy="Ask again.")
