"""The models of a recipe as they are served now, for whoever measures it: asked through the running engine.

What is certified is what people will get: the same engine, precision, prompts and code path as for requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tokenizers import Tokenizer

from evals.held_out import Lengths, Question
from evals.mixture import Given
from evals.rows import EvalRow
from graphs.answering import Answers
from graphs.outcomes import given
from moatelier.contracts import Proposal, Trace, Voice
from moatelier.errors import Conflict, InvalidRequest, MoatelierError, UpstreamError
from moatelier.settings import settings
from modalities import catalogue
from serving import asking, mixtures, parts, roster
from serving.completions import EMPTY
from serving.mixtures import Mixture
from serving.moa import Call
from serving.prompts import Messages
from serving.router import BASE
from store import adapters


def engine_url() -> str:
    """Where the embedded engine listens."""
    return f"http://127.0.0.1:{settings().engine_port}"


def loaded(project: str, name: str, digest: str) -> Mixture:
    """The recipe, as long as it is still the one that was to be measured.

    Raises:
        NotFound: It, or something that it names, is gone.
        Conflict: It was changed since.
    """
    mixture = mixtures.load((project, name))
    if mixture.stored.digest != digest:
        raise Conflict("The recipe was changed meanwhile.", where=f"moa/{name}", remedy="Evaluate it as it is now.")
    return mixture


def token_lengths() -> Lengths:
    """Counts by the tokenizer of the base that is served; needs no torch."""
    tokenizer = Tokenizer.from_file(str(catalogue.folder(settings().base) / "tokenizer.json"))
    return lambda texts: [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]


class Served:
    """Asks a recipe and its models. As `graphs.outcomes.Models`.

    Args:
        project: Whose recipe it is.
        mixture: The recipe with everything that it names.
        answers: Answers by recipes; its parts ask single models.
        proposing: Digests of the adapters that may propose.
    """

    def __init__(self, project: str, mixture: Mixture, answers: Answers, proposing: Sequence[str]) -> None:
        self._project, self._mixture, self._answers = project, mixture, answers
        self._labels: dict[str, str] = {}
        self.routes = _routes(project, proposing)
        """The router counts where it may choose one of the recipe's adapters. Where it knows none of them it would send
        everything to others or to the base, and a recipe would be certified for beating those."""

    def label(self, voice: Voice) -> str:
        """What the table calls a model: its id."""
        if voice.upstream:
            return f"{voice.upstream}/{voice.model}"
        if not voice.adapter:
            return settings().base
        if voice.adapter not in self._labels:
            self._labels[voice.adapter] = adapters.get(self._project, voice.adapter).model_id
        return self._labels[voice.adapter]

    async def recipe(self, question: Question) -> Trace:
        """The recipe's answer; raises when nobody answers."""
        messages = parts.sendable(question.messages)
        return await self._answers.answer(self._mixture, messages, {"max_tokens": question.max_tokens})

    async def alone(self, voice: Voice, question: Question) -> Given:
        """One model's greedy answer; a failure is told in it. To say nothing is an answer, and a wrong one."""
        proposal = await self._ask(voice, question)
        answer = given(proposal)
        return replace(answer, error="") if EMPTY in proposal.reason else answer

    async def _ask(self, voice: Voice, question: Question) -> Proposal:
        asked = asking.Question({"max_tokens": question.max_tokens}, False, (), _no_recipe)
        label = self.label(voice)
        try:
            call = await self._call(voice)
        except MoatelierError as error:
            return Proposal(layer=0, place=0, model=label, error=error.code, reason=str(error))
        # A breaker of its own for each question: what a model alone fails at must not silence it in the recipe, nor
        # may a few failures decide about the rows that follow.
        call = replace(call, label=f"{label} {question.id}")
        return await self._answers.asker.ask(call, parts.sendable(question.messages), asked)

    async def _call(self, voice: Voice) -> Call:
        sampling = {
            name: value for name in ("temperature", "max_tokens") if (value := getattr(voice, name)) is not None
        }
        if voice.upstream and voice.model:
            return Call(0, 0, self.label(voice), upstream=(voice.upstream, voice.model), sampling=sampling)
        target = await self._answers.targets.get((self._project, voice.adapter or settings().base))
        return Call(0, 0, target.model, target=target, sampling=sampling)

    async def routed(self, question: Question) -> Voice:
        """Whom `auto` would ask, feedback aside."""
        ranked = await self._answers.auto.ranked(self._project, parts.sendable(question.messages))
        if ranked.choice == BASE:
            return Voice(base=True, temperature=0)
        return Voice(adapter=ranked.choice, temperature=0)

    async def rehearse(self, question: Question, voices: Mapping[str, Voice]) -> None:
        """Ask once before anything is spent on it.

        Raises:
            MoatelierError: The recipe, or one of its models, does not answer.
        """
        await self.recipe(question)
        for label, voice in voices.items():
            if error := (await self.alone(voice, question)).error:
                raise UpstreamError(
                    f"A model of the recipe does not answer ({error}).",
                    where=label,
                    remedy="See that it is served, and evaluate again; no look was taken.",
                )


def _routes(project: str, proposing: Sequence[str]) -> bool:
    of = {adapters.get(project, digest).manifest.modality for digest in proposing} or {"text"}
    known = {name for modality in of for name in roster.load(project, modality).router.adapters}
    return bool(known) and (not proposing or bool(known & set(proposing)))


async def _no_recipe(_: Mixture, __: Messages) -> Trace:
    raise InvalidRequest("A single model is no recipe.")


def rehearsal(rows: Sequence[EvalRow]) -> Question:
    """A question that no look is needed for: of some open rows the one with the most media, else a greeting."""
    turns = max(rows, key=lambda row: len(row.media)).prompt if rows else ({"role": "user", "content": "Hello"},)
    return Question("rehearsal", "rehearsal", turns, "", 16)
