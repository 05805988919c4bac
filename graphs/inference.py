r"""How a recipe answers one request. Not durable: it has no checkpointer, and lives as long as the request.

    route --> propose x n --> settle --> aggregate -> END
      |          ^                |
      |          \--- next layer -/
      \--> single (routed to one) -> END, or the whole recipe when that one fails

What one proposer does wrong stays its own affair: it becomes a proposal with an error. A request fails only when nobody
has answered, or when an answer breaks off after its first words were sent.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from operator import add
from typing import Annotated, Any, Literal, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send

from graphs import speaking
from graphs.speaking import Work, failure, in_order, propose_one, speak
from moatelier.contracts import Proposal, Way
from moatelier.contracts.recipes import One, Select
from serving import aggregate as rules
from serving import moa
from serving.auto import no_adapters
from serving.moa import Call, Plan
from serving.prompts import Messages
from serving.quorum import Quorum

Next = Literal["propose", "settle", "aggregate", "single", "__end__"]
END: Literal["__end__"] = "__end__"


@dataclass(frozen=True)
class Outcome:
    """The answer, and how it was made."""

    way: Way
    chosen: Proposal
    spoken: Proposal | None = None


class State(TypedDict, total=False):
    """One request on its way."""

    plan: Plan
    stage: int
    """The layer that is being asked, counted from 0."""
    proposals: Annotated[list[Proposal], add]
    """Of all layers of this plan, in the order in which they came."""
    instead: Annotated[list[str], add]
    """Why something else was done than the recipe says."""
    outcome: Outcome


@dataclass(frozen=True)
class Asked:
    """What one `propose` is sent."""

    call: Call
    messages: Messages
    quorum: Quorum


async def route(state: State, runtime: Runtime[Work]) -> Command[Next]:
    """Hear the router, let the gate decide how much of the recipe is needed, and begin."""
    work = runtime.context
    ranked, why = await speaking.ranked(work)
    plan = moa.planned(work.mixture, ranked, await speaking.found(work, ranked), moa.extent(work.mixture, ranked))
    told = {"extent": plan.extent, "effective": round(moa.effective(ranked), 3) if ranked else None}
    work.tell({"event": "routed", **told})
    if not plan.stages[0].calls:
        raise why or no_adapters({})
    return _begin(work, plan, [f"The router could not be asked: {why}"] if why else [])


def _begin(work: Work, plan: Plan, instead: list[str], failed: Sequence[Proposal] = ()) -> Command[Next]:
    update: dict[str, Any] = {"plan": plan, "stage": 0, "instead": instead, "proposals": list(failed)}
    if isinstance(plan.aggregator, One) and len(plan.stages) == 1:
        return Command(update=update, goto="single")
    if plan.last and plan.last.members and len(plan.stages) == 1:
        return Command(update=update, goto="aggregate")
    return Command(update=update, goto=_sends(work, plan, 0, []))


def _sends(work: Work, plan: Plan, number: int, proposals: Sequence[Proposal]) -> list[Send]:
    stage = plan.stages[number]
    messages = plan.messages(work.conversation, plan.handed(number - 1, proposals) if number else [])
    quorum = Quorum(stage.layer, len(stage.calls))
    return [Send("propose", Asked(call, messages, quorum)) for call in stage.calls]


async def propose(state: Asked, runtime: Runtime[Work]) -> State:
    """Ask one model; what goes wrong becomes the proposal's error."""
    proposal = await propose_one(runtime.context, state.call, state.messages, state.quorum)
    return {"proposals": [proposal]}


async def settle(state: State, runtime: Runtime[Work]) -> Command[Next]:
    """After a layer: leave early when it agrees, ask the next one, or aggregate."""
    work, plan, number = runtime.context, state["plan"], state["stage"]
    proposals = in_order(state["proposals"])
    own = [one for one in proposals if one.layer == number and not one.error]
    instead = [] if own else [f"Nobody in layer {number} answered."]
    if not plan.handed(number, proposals):
        raise failure(proposals)
    if (threshold := plan.stages[number].layer.exit_at) is not None and len(own) > 1:
        chosen, share = rules.majority(own)
        if share >= threshold:
            return Command(update={"outcome": Outcome("exit", chosen)}, goto=END)
    last = len(plan.stages) - (1 if plan.last and plan.last.members else 0)  # an ensemble is its layer's only call
    following = next((place for place in range(number + 1, last) if plan.stages[place].calls), None)
    if following is not None:
        sends = _sends(work, plan, following, proposals)
        return Command(update={"stage": following, "instead": instead}, goto=sends)
    return Command(update={"instead": instead}, goto="aggregate")


async def single(state: State, runtime: Runtime[Work]) -> Command[Next]:
    """Ask the likeliest alone, then the next one: each has half of the time that is left, the last one all of it."""
    work, plan = runtime.context, state["plan"]
    stage = plan.stages[0]
    calls = sorted(stage.calls, key=lambda call: -call.prior)
    deadline = time.monotonic() + stage.layer.deadline_s
    failed: list[Proposal] = []
    for place, call in enumerate(calls):
        left = deadline - time.monotonic()
        share = left if place == len(calls) - 1 else left / 2
        proposal = await speak(work, call, work.conversation, share)
        if not proposal.error:
            update = {"proposals": [*failed, proposal], "outcome": Outcome("one", proposal)}
            return Command(update=update, goto=END)
        failed.append(proposal)
    if plan.extent == "one":  # the gate was wrong, or unlucky: now the whole recipe
        full = moa.planned(work.mixture, plan.ranked, await speaking.found(work, plan.ranked), "full")
        again = replace(full, aggregator=Select(kind="select")) if isinstance(full.aggregator, One) else full
        return _begin(work, again, [f"The one adapter failed: {failed[0].reason}"], failed)
    raise failure(failed)


async def aggregate(state: State, runtime: Runtime[Work]) -> Command[Next]:
    """Make one answer of the last layer's proposals."""
    work, plan, number = runtime.context, state["plan"], state["stage"]
    proposals = in_order(state.get("proposals", []))
    if plan.last is None:
        good = plan.handed(number, proposals)
        return Command(update={"outcome": _ruled(plan, good)}, goto=END)
    before = plan.handed(number, proposals) if proposals else []
    messages = plan.messages(work.conversation, before)
    limit = getattr(plan.aggregator, "deadline_s", 120.0)
    spoken = await speak(work, plan.last, messages, limit)
    if not spoken.error:
        way: Way = "ensemble" if plan.last.members else "synthesis"
        return Command(update={"outcome": Outcome(way, spoken, spoken)}, goto=END)
    why = [f"The aggregator failed: {spoken.reason}"]
    if before:
        chosen = rules.select(before, prior=1.0, likelihood=1.0, agreement=1.0)
        return Command(update={"outcome": Outcome("select", chosen, spoken), "instead": why}, goto=END)
    apart = replace(plan, aggregator=Select(kind="select"), last=None)  # an ensemble's members, each for itself
    update = {"plan": apart, "instead": why, "proposals": [spoken]}
    return Command(update=update, goto=_sends(work, apart, number, []))


def _ruled(plan: Plan, good: Sequence[Proposal]) -> Outcome:
    rule = plan.aggregator
    if rule.kind == "vote":
        return Outcome("vote", rules.vote(good, prior=rule.prior, likelihood=rule.likelihood))
    if rule.kind == "compare":
        return Outcome("compare", rules.compare(good, same=rule.same, different=rule.different))
    if rule.kind == "one":
        return Outcome("one", max(good, key=lambda proposal: proposal.prior))
    weights = rule if rule.kind == "select" else Select(kind="select")
    exponents = {name: getattr(weights, name) for name in ("prior", "likelihood", "agreement")}
    return Outcome("select", rules.select(good, **exponents))


@cache
def build() -> Any:
    """The compiled graph."""
    graph = StateGraph(State, context_schema=Work)
    graph.add_node("route", route)
    graph.add_node("propose", propose)
    graph.add_node("settle", settle)
    graph.add_node("single", single)
    graph.add_node("aggregate", aggregate)
    graph.add_edge(START, "route")
    graph.add_edge("propose", "settle")
    return graph.compile()
