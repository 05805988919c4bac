"""The public face of recipes: one question, one recipe, one trace with everything that was proposed on the way.

    async with answering(engine_url) as answers:
        trace = await answers.answer(mixture, messages)

That is for a worker; the API has one `Answers` of its own.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from graphs.inference import Outcome, State, build
from graphs.speaking import Tell, Work, in_order
from moatelier import genai, tracing
from moatelier.contracts import Trace
from moatelier.contracts.recipes import PREFIX
from moatelier.errors import InvalidRequest
from serving import moa
from serving.asking import Asker, Question
from serving.auto import Auto
from serving.backend import Backend
from serving.brief import Brief
from serving.mixtures import Mixture
from serving.prompts import Messages
from serving.targets import Target, resolve
from serving.upstream import Upstream

DEEPEST = 4
"""Recipes that may ask each other in a row."""


def _silent(_: dict[str, Any]) -> None:
    """For whoever does not watch."""


@dataclass(frozen=True)
class Answers:
    """Answers questions by recipes.

    Attributes:
        asker: Asks models.
        auto: Knows which adapters a question belongs to.
        targets: (project, digest) -> what answers under it.
    """

    asker: Asker
    auto: Auto
    targets: Brief[tuple[str, str], Target]

    @staticmethod
    def passable(mixture: Mixture, trail: tuple[str, ...]) -> tuple[str, ...]:
        """The trail with this recipe at its end. Raises InvalidRequest like `answer`."""
        name = mixture.recipe.name
        if name in trail or len(trail) >= DEEPEST:
            loops = name in trail
            what = "The recipe asks itself." if loops else f"More than {DEEPEST} recipes ask each other in a row."
            path = " -> ".join(PREFIX + part for part in (*trail, name))
            raise InvalidRequest(what, where=path, remedy="Take one of these steps out.")
        return (*trail, name)

    async def answer(
        self,
        mixture: Mixture,
        messages: Sequence[Mapping[str, Any]],
        fields: Mapping[str, Any] | None = None,
        *,
        likelihoods: bool = False,
        trail: tuple[str, ...] = (),
        tell: Tell = _silent,
        say: Callable[[str], None] | None = None,
    ) -> Trace:
        """One question answered.

        Args:
            mixture: The recipe. Whether it may answer is the caller's affair (`Mixture.need_live`).
            messages: The conversation.
            fields: Further fields of a chat completion that all models are sent, such as `max_tokens` and `seed`.
            likelihoods: Ask for every proposal's, also where the recipe does without.
            trail: Names of the recipes that the question has come through.
            tell: Hears of progress: `routed`, then `asked` and `answered` or `failed` for every call.
            say: Hears the answer's pieces, when they come one by one: with `one`, `ensemble` and `synthesis`.

        Raises:
            InvalidRequest: The recipe has been asked already on this question's way, or too many recipes have.
            MoatelierError: Nobody answered, or the answer broke off after its first words.
        """
        with tracing.span(f"recipe {mixture.recipe.name}", {genai.RECIPE: mixture.stored.digest}) as current:
            trace = await self._answer(mixture, messages, fields, likelihoods, trail, tell, say)
            current.set_attributes({genai.EXTENT: trace.extent, genai.WAY: trace.way})
            tokens = {genai.INPUT_TOKENS: trace.prompt_tokens, genai.OUTPUT_TOKENS: trace.completion_tokens}
            current.set_attributes(tokens)
            return trace

    async def _answer(
        self,
        mixture: Mixture,
        messages: Sequence[Mapping[str, Any]],
        fields: Mapping[str, Any] | None,
        likelihoods: bool,
        trail: tuple[str, ...],
        tell: Tell,
        say: Callable[[str], None] | None,
    ) -> Trace:
        begun = time.perf_counter()
        passed = self.passable(mixture, trail)
        project, conversation = mixture.stored.project, [dict(message) for message in messages]
        shown = dict(fields or {})

        async def nested(other: Mixture, asked: Messages) -> Trace:
            other.need_live()
            return await self.answer(other, asked, shown, likelihoods=likelihoods, trail=passed)

        work = Work(
            mixture=mixture,
            asker=self.asker,
            question=Question(shown, likelihoods or _weighs_likelihood(mixture), passed, nested),
            conversation=conversation,
            rank=lambda: self.auto.ranked(project, conversation),
            find=lambda digest: self.targets.get((project, digest)),
            tell=tell,
            say=say,
        )
        end: State = await build().ainvoke({"proposals": [], "instead": []}, context=work)
        return _trace(mixture, end, 1000 * (time.perf_counter() - begun))


def _weighs_likelihood(mixture: Mixture) -> bool:
    """Whether the answer depends on log probabilities; they cost the engine time."""
    return getattr(mixture.recipe.aggregator, "likelihood", 0.0) > 0


def _trace(mixture: Mixture, end: State, milliseconds: float) -> Trace:
    outcome: Outcome = end["outcome"]
    ranked = end["plan"].ranked
    return Trace(
        name=mixture.recipe.name,
        recipe=mixture.stored.digest,
        extent=end["plan"].extent,
        effective=round(moa.effective(ranked), 6) if ranked else None,
        probabilities=moa.told(ranked) if ranked else {},
        proposals=tuple(in_order(end["proposals"])),
        spoken=outcome.spoken,
        way=outcome.way,
        text=outcome.chosen.text,
        finish_reason=outcome.chosen.finish_reason or "stop",
        answered_by=outcome.chosen.model,
        instead=" ".join(end["instead"]),
        milliseconds=round(milliseconds, 2),
    )


@asynccontextmanager
async def answering(engine_url: str) -> AsyncIterator[Answers]:
    """Answers by recipes in a process of its own, closed at the end."""
    async with Upstream(engine_url) as upstream, Asker(Backend(upstream)) as asker:
        targets = Brief(resolve)
        yield Answers(asker, Auto(upstream, targets), targets)
