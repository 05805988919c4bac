"""One question to a recipe and to everything it is compared with, as one row of its table.

A proposal of the recipe's first layer that its model chose greedily *is* that model's answer alone, so it is not asked
for again. What the recipe left out (another layer's models, a proposer that came too late, everybody but one where the
router was sure) is asked alone.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from evals.held_out import Question
from evals.mixture import Given, Outcome
from moatelier.contracts import Proposal, Proposer, Recipe, Trace, Voice
from moatelier.errors import MoatelierError

NOT_ASKED = "not_asked"
"""Stands for the error of a proposal that the recipe did without."""
Label = Callable[[Voice], str]


class Models(Protocol):
    """Whom a trial can ask."""

    async def recipe(self, question: Question) -> Trace:
        """The recipe's answer, with everything that led to it."""

    async def alone(self, voice: Voice, question: Question) -> Given:
        """One model's greedy answer; a failure is told in the answer, not raised."""

    async def routed(self, question: Question) -> Voice:
        """Who would answer without the recipe."""

    @property
    def routes(self) -> bool:
        """Whether there is a router that knows the recipe's adapters."""


def singles(recipe: Recipe, label: Label) -> dict[str, Voice]:
    """Label -> every model that proposes, whatever its layer; recipes within the recipe are no single models."""
    proposing = [proposer for layer in recipe.layers for proposer in layer.proposers]
    return {label(proposer): _greedy(proposer) for proposer in proposing if not (proposer.auto or proposer.recipe)}


def _greedy(voice: Voice) -> Voice:
    kept = voice.model_dump(include={"adapter", "base", "upstream", "model", "max_tokens"})
    return Voice(**kept, temperature=0)


def places(recipe: Recipe, label: Label) -> dict[str, Proposer]:
    """Name of each proposal of the first layer -> its proposer, in the recipe's order."""
    found: dict[str, Proposer] = {}
    for proposer in recipe.layers[0].proposers:
        for place in range(proposer.count):
            number = f" {place + 1}" if proposer.count > 1 else ""
            name = f"{_named(proposer, label)}{number}"
            while name in found:  # one model twice, as it may be at two temperatures
                name += " again"
            found[name] = proposer
    return found


def _named(proposer: Proposer, label: Label) -> str:
    return "auto" if proposer.auto else proposer.recipe.partition("@")[0] if proposer.recipe else label(proposer)


class Panel:
    """Asks a question of everybody.

    Args:
        recipe: As it is sealed.
        models: Whom to ask.
        label: Voice -> what the table calls it.
    """

    def __init__(self, recipe: Recipe, models: Models, label: Label) -> None:
        self._models, self._label = models, label
        self._singles = singles(recipe, label)
        self._places = places(recipe, label)

    async def ask(self, question: Question) -> dict[str, Any]:
        """Everybody's answer, as JSON for `outcome`."""
        trace, failure = None, ""
        try:
            trace = await self._models.recipe(question)
        except MoatelierError as error:
            failure = error.code
        proposed = self._proposed(trace)
        known = {name: given for name, given in proposed.items() if not given.error}
        alone = await self._alone(question, known)
        routed = await self._routed(question, alone)
        return {
            "recipe": _answered(trace, failure),
            "instead": bool(trace and trace.instead),
            "routed": routed and asdict(routed),
            # A recipe of recipes has no single model: its proposals are all there is to compare with.
            "singles": _plain(alone or proposed),
            "proposals": _plain(self._fill(proposed, alone)),
        }

    def _proposed(self, trace: Trace | None) -> dict[str, Given]:
        """Name of the place -> what was proposed there; nobody's where the gate let only few be asked."""
        told = [p for p in trace.proposals if p.layer == 0] if trace and trace.extent == "full" else []
        by_place = {proposal.place: proposal for proposal in told}
        return {
            name: given(by_place[place]) if place in by_place else Given("", error=NOT_ASKED)
            for place, name in enumerate(self._places)
        }

    def _fill(self, proposed: Mapping[str, Given], alone: Mapping[str, Given]) -> dict[str, Given]:
        """With what the models that were not asked as proposers said alone: they would have proposed just that."""
        filled = dict(proposed)
        for name, proposer in self._places.items():
            if proposed[name].error == NOT_ASKED and _is_greedy(proposer):
                filled[name] = alone[self._label(proposer)]
        return filled

    async def _alone(self, question: Question, known: Mapping[str, Given]) -> dict[str, Given]:
        already = {
            self._label(proposer): known[name]
            for name, proposer in self._places.items()
            if name in known and _is_greedy(proposer)
        }
        asked = [label for label in self._singles if label not in already]
        answers = await asyncio.gather(*(self._models.alone(self._singles[label], question) for label in asked))
        found = already | dict(zip(asked, answers, strict=True))
        return {label: found[label] for label in self._singles}

    async def _routed(self, question: Question, alone: Mapping[str, Given]) -> Given | None:
        if not self._models.routes:
            return None
        try:
            voice = await self._models.routed(question)
        except MoatelierError as error:
            return Given("", error=error.code)
        label = self._label(voice)
        return alone[label] if label in alone else await self._models.alone(voice, question)


def _is_greedy(proposer: Proposer) -> bool:
    """Whether it proposes just what its model answers alone; a hosted model is greedy only where it is told to be."""
    if proposer.auto or proposer.recipe or proposer.samples > 1:
        return False
    return proposer.temperature == 0 or (proposer.temperature is None and not proposer.upstream)


def given(proposal: Proposal) -> Given:
    """A proposal as an answer with its price."""
    return Given(proposal.text, proposal.tokens, proposal.milliseconds / 1000, proposal.error)


def _answered(trace: Trace | None, failure: str) -> dict[str, Any]:
    if trace is None:
        return asdict(Given("", error=failure))
    tokens = trace.prompt_tokens + trace.completion_tokens
    return asdict(Given(trace.text, tokens, trace.milliseconds / 1000))


def _plain(answers: Mapping[str, Given]) -> list[list[Any]]:
    """Pairs: the order counts, and kept JSON sorts the keys of an object."""
    return [[name, asdict(one)] for name, one in answers.items()]


def outcome(question: Question, answered: Mapping[str, Any]) -> Outcome:
    """The row of the table, from what `Panel.ask` gave."""

    def all_of(field: str) -> dict[str, Given]:
        return {name: Given(**one) for name, one in answered[field]}

    return Outcome(
        id=question.id,
        group=question.group,
        truth=question.truth,
        singles=all_of("singles"),
        proposals=all_of("proposals"),
        recipe=Given(**answered["recipe"]),
        routed=Given(**answered["routed"]) if answered["routed"] else None,
        instead=answered["instead"],
    )
