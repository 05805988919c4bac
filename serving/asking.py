"""One call of a recipe, asked: sent where it belongs, read strictly, and turned into a proposal whatever happens.

A model that fails again and again, or is always late, is left alone for a while: each has its own breaker here, beside
the one of its endpoint, so that one dead model does not silence its neighbours.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from moatelier import genai, tracing
from moatelier.contracts import Proposal, Trace
from moatelier.errors import DeadlineExceeded, MoatelierError, NotFound
from moatelier.settings import settings
from serving import parts, sse
from serving.backend import Backend
from serving.breaker import Breaker
from serving.completions import Said, streamed, whole
from serving.mixtures import Mixture
from serving.moa import Call
from serving.prompts import Messages
from serving.upstream import Upstream

TRAIL = "x-moatelier-recipes"
"""Header that names the recipes a request has come through, so that one that comes round again is refused."""
OURS = frozenset({"top_k", "deadline_s", "prompt_logprobs"})
"""Fields that hosted endpoints refuse."""
OPEN_S = 10.0
MOST_BREAKERS = 2000
"""Models whose failures are counted; beyond that those without any are forgotten."""


@dataclass(frozen=True)
class Question:
    """What is asked of every model of a request.

    Attributes:
        fields: The request's own fields, without model, messages and streaming.
        likelihoods: Ask for log probabilities.
        trail: Names of the recipes it has come through.
        nested: Answers by another recipe.
    """

    fields: Mapping[str, Any]
    likelihoods: bool
    trail: tuple[str, ...]
    nested: Callable[[Mixture, Messages], Awaitable[Trace]]


class Asker:
    """Asks models on the engine and at the configured endpoints. Use it on one event loop.

    Args:
        backend: The embedded engine.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._upstreams: dict[str, Upstream] = {}
        self._breakers: dict[str, Breaker] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for upstream in self._upstreams.values():
            await upstream.aclose()

    async def ask(
        self, call: Call, messages: Messages, question: Question, say: Callable[[str], None] | None = None
    ) -> Proposal:
        """One proposal. Whatever goes wrong is told in it; only being cancelled is raised.

        Args:
            call: Whom to ask.
            messages: The conversation.
            question: What else belongs to the request.
            say: Hears each piece of the answer as it comes; a proposal that failed then holds what was said.
        """
        names = {genai.LAYER: call.layer, genai.PLACE: call.place, genai.REQUEST_MODEL: call.label}
        with tracing.span("proposal", names) as current:
            proposal = await self._proposal(call, messages, question, say)
            if proposal.error:
                tracing.failed(current, proposal.error)
            tokens = {genai.INPUT_TOKENS: proposal.prompt_tokens, genai.OUTPUT_TOKENS: proposal.completion_tokens}
            current.set_attributes(tokens)
            return proposal

    async def _proposal(
        self, call: Call, messages: Messages, question: Question, say: Callable[[str], None] | None
    ) -> Proposal:
        begun = time.perf_counter()
        told = Proposal(layer=call.layer, place=call.place, model=call.label, adapter=call.adapter, prior=call.prior)
        heard: list[str] = []
        try:
            with self._breaker(call.label).guard(counts=_is_failure):
                said = await self._said(call, messages, question, _both(heard, say))
            found: dict[str, Any] = dict(vars(said))
        except MoatelierError as error:
            found = {"error": error.code, "reason": str(error), "text": "".join(heard)}
        return told.model_copy(update=found | {"milliseconds": round(1000 * (time.perf_counter() - begun), 2)})

    def late(self, call: Call) -> None:
        """Its layer went on without it: that counts as a failure."""
        self._breaker(call.label).fail()

    def _breaker(self, label: str) -> Breaker:
        if label not in self._breakers and len(self._breakers) >= MOST_BREAKERS:
            self._breakers = {known: kept for known, kept in self._breakers.items() if not kept.fresh}
        return self._breakers.setdefault(label, Breaker(label, open_s=OPEN_S))

    async def _said(
        self, call: Call, messages: Messages, question: Question, say: Callable[[str], None] | None
    ) -> Said:
        if call.other is not None:
            trace = await question.nested(call.other, messages)
            if say:
                say(trace.text)
            return Said(trace.text, trace.finish_reason, None, trace.prompt_tokens, trace.completion_tokens)
        payload = {**_fields(call, question), "messages": _taken(call, messages)}
        if call.upstream:
            return await self._hosted(*call.upstream, payload, question, say)
        payload["model"] = call.target.served if call.target else settings().base
        if call.members:
            payload["ensemble"] = [member.served for member in call.members]
        targets = call.members or (call.target,) if call.target else call.members
        if say is None:
            return whole(await self._backend.chat(payload, *targets))
        async with aclosing(await self._backend.stream(payload | USAGE, *targets)) as chunks:
            return await streamed(sse.bodies(chunks), say)

    async def _hosted(
        self, name: str, model: str, payload: dict[str, Any], question: Question, say: Callable[[str], None] | None
    ) -> Said:
        upstream = self._upstream(name)
        sent = {field: value for field, value in payload.items() if field not in OURS} | {"model": model}
        if not settings().upstreams[name].logprobs:
            sent.pop("logprobs", None)
        headers = {TRAIL: ",".join(question.trail)}
        if say is None:
            return whole(await upstream.chat(sent, headers))
        async with aclosing(upstream.stream(sent | USAGE, headers)) as chunks:
            return await streamed(sse.bodies(chunks), say)

    def _upstream(self, name: str) -> Upstream:
        if (endpoint := settings().upstreams.get(name)) is None:
            raise NotFound("No upstream of this name is configured.", where=name, remedy="Set MOATELIER_UPSTREAMS.")
        if name not in self._upstreams:
            self._upstreams[name] = Upstream(
                endpoint.url, endpoint.secret, endpoint.timeout_s, concurrency=endpoint.concurrency, open_s=OPEN_S
            )
        return self._upstreams[name]


def _taken(call: Call, messages: Messages) -> Messages:
    """The conversation as a model takes it: our text models are asked about its words alone, the others see it all."""
    return messages if call.upstream or (call.target and call.target.modality != "text") else parts.words(messages)


def _is_failure(error: MoatelierError) -> bool:
    """Whether the model is to blame, and not the request or its deadline."""
    return error.status >= 500 and not isinstance(error, DeadlineExceeded)


USAGE = {"stream_options": {"include_usage": True}}


def _both(heard: list[str], say: Callable[[str], None] | None) -> Callable[[str], None] | None:
    if say is None:
        return None

    def hear(piece: str) -> None:
        heard.append(piece)
        say(piece)

    return hear


def _fields(call: Call, question: Question) -> dict[str, Any]:
    """The request's fields, the recipe's over them."""
    fields = dict(question.fields)
    limit = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
    for name, value in call.sampling.items():
        fields[limit if name == "max_tokens" else name] = value
    if call.sample and type(fields.get("seed")) is int:  # equal seeds would give equal samples
        fields["seed"] += call.sample
    if question.likelihoods:
        fields["logprobs"] = True
    return fields
