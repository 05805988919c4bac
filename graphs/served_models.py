"""Any model by the name that a client knows it by: a base, an adapter, `auto`, a recipe, `<upstream>/<model>`."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from graphs.answering import Answers
from moatelier.contracts import Proposal, Trace
from moatelier.contracts.recipes import PREFIX
from moatelier.errors import MoatelierError, UpstreamError
from moatelier.settings import settings
from serving import asking, mixtures
from serving.auto import AUTO
from serving.completions import EMPTY
from serving.mixtures import Mixture
from serving.moa import Call
from serving.prompts import Messages
from serving.upstream import Upstream

PATIENCE_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Waits before a question is asked again that an engine did not answer: it may be starting."""
_AGAIN = (UpstreamError.code,)


class ServedModels:
    """Asks models for one project.

    Args:
        project: Whose adapters and recipes.
        answers: Answers by recipes; its parts ask single models.
        upstream: The engine, for embeddings.
    """

    def __init__(self, project: str, answers: Answers, upstream: Upstream) -> None:
        self._project, self._answers, self._upstream = project, answers, upstream
        self._asked = 0

    async def ask(self, model: str, messages: Messages, fields: Mapping[str, Any]) -> Proposal:
        """A model's answer, asked again while nothing answers.

        Raises:
            NotFound: There is no such model.
            MoatelierError: It refuses, or nothing has answered for long; of the class that fits.
        """
        asked = asking.Question(dict(fields), False, (), self._nested(dict(fields)))
        for wait_s in (*PATIENCE_S, None):
            call = await self._call(model, messages)
            said = await self._answers.asker.ask(call, messages, asked)
            if not said.error or EMPTY in said.reason:  # to say nothing is an answer, and asked again it is the same
                return said.model_copy(update={"error": "", "reason": ""})
            if wait_s is None or said.error not in _AGAIN:
                raise MoatelierError.from_dict({"code": said.error, "what": said.reason, "where": model})
            await asyncio.sleep(wait_s)
        raise AssertionError("the last turn returns or raises")

    async def _call(self, model: str, messages: Messages) -> Call:
        # A breaker of its own for each question: few failures must not decide about all the rows that follow.
        self._asked += 1
        label = f"{model} {self._asked}"
        if model.startswith(PREFIX):
            return Call(0, 0, label, other=await asyncio.to_thread(mixtures.load, (self._project, model)))
        name, _, rest = model.partition("/")
        if rest and name in settings().upstreams:
            return Call(0, 0, label, upstream=(name, rest))
        if model == AUTO:
            target = await self._answers.auto.target(self._project, [dict(message) for message in messages])
        else:
            target = await self._answers.targets.get((self._project, model))
        return Call(0, 0, label, target=target)

    def _nested(self, fields: dict[str, Any]) -> Any:
        async def answer(mixture: Mixture, messages: Messages) -> Trace:
            mixture.need_live()
            return await self._answers.answer(mixture, messages, fields)

        return answer

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """The vectors of texts by the service's embedding model. Raises UpstreamError and ModelUnavailable."""
        return await self._upstream.embeddings(list(texts), settings().embedding)
