"""One answer as it is watched: who gives it, how long it takes, how it ends. Its words become numbers behind it.

A request whose name has a rollout is drawn here, and where the challenger fails a request, the champion answers it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from api.decisions import Spoken
from api.services import Services
from evals.observing import Heard
from moatelier.errors import IntegrityError, MoatelierError
from moatelier.ids import digest_json
from serving.router import routed_text
from serving.targets import Target

T = TypeVar("T")
LONGEST = 20_000
"""Characters of an answer that are looked at."""
SLOW_S = 60.0
"""An answer that takes longer counts as none, where no rollout says otherwise."""
UNSEEN = 2
"""Requests that challengers may be answering unseen at once; while they do, further ones are left out."""


@dataclass(frozen=True)
class Asked:
    """A request to a model.

    Attributes:
        shared: What the routes share.
        project: Whose it is.
        body: As it came.
        subject: For whom it is, as a digest.
    """

    shared: Services
    project: str
    body: Mapping[str, Any]
    subject: str

    def watch(self, target: Target, *, shadow: bool = False) -> "Watch":
        """Look on while this one answers it."""
        return Watch(self, target, shadow=shadow)


def drawn(shared: Services, project: str, body: Mapping[str, Any], target: Target) -> tuple[Asked, Target]:
    """Who answers this request of those that its model's name leads to.

    A request without `user` goes by the first words of its conversation, so that its later turns stay on one side.
    """
    known = named(project, body)
    subject = known or digest_json([project, _first(body.get("messages"))])[:16]
    target = target.drawn(subject)
    return Asked(shared, project, body, subject), replace(target, subject=known) if known else target


def named(project: str, body: Mapping[str, Any]) -> str | None:
    """Whom a request's field `user` names, as a digest that means nothing in another project; None for nobody."""
    user = body.get("user")
    return digest_json([project, "user", user])[:16] if isinstance(user, str) and user else None


def _first(messages: Any) -> str:
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            others = len(content) if isinstance(content, list) else 0  # a picture's bytes are not looked through
            return f"{others} {routed_text([message])}"
    return ""


def failed(error: MoatelierError) -> bool:
    """Whether an error is the model's fault, not the request's nor that of the crowd."""
    return error.status >= 500 or isinstance(error, IntegrityError)


class Watch:
    """One answer on its way.

    Args:
        asked: What it answers.
        target: Who gives it.
        shadow: It is shown to nobody.
    """

    def __init__(self, asked: Asked, target: Target, *, shadow: bool = False) -> None:
        self._asked, self._target, self._shadow = asked, target, shadow
        self._begun = time.perf_counter()
        self._words: list[str] = []
        self._logprobs: list[float] = []
        self._usage: Mapping[str, Any] = {}
        self._length, self._finished, self._told = 0, False, False
        self._completion = ""

    def take(self, answer: Mapping[str, Any]) -> None:
        """A whole answer, or a chunk of one."""
        self._completion = self._completion or str(answer.get("id") or "")
        if isinstance(usage := answer.get("usage"), Mapping):
            self._usage = usage
        for choice in answer.get("choices") or ():
            if choice.get("index", 0) != 0:
                continue
            said = choice.get("message") or choice.get("delta") or {}
            self._say(said.get("content") or ("(a call)" if said.get("tool_calls") else ""))
            content = (choice.get("logprobs") or {}).get("content") or ()
            self._logprobs += [float(token["logprob"]) for token in content if "logprob" in token]
            self._finished = self._finished or choice.get("finish_reason") is not None

    def _say(self, words: Any) -> None:
        if isinstance(words, str) and self._length < LONGEST:
            self._words.append(words)
            self._length += len(words)

    def end(self, error: str = "") -> None:
        """The answer is over; the first end counts."""
        if self._told:
            return
        self._told = True
        split, body = self._target.split, self._asked.body
        messages = tuple(turn for turn in body.get("messages") or () if isinstance(turn, dict))
        spoken = Spoken(
            project=self._asked.project,
            target=self._target,
            subject=self._asked.subject,
            heard=self._heard(routed_text(messages), error),
            slow_s=split.slow_s if split else SLOW_S,
            shadow=self._shadow,
            rollout=split.rollout if split and self._shadow else self._target.rollout,
            side="challenger" if self._shadow else self._target.side,
            completion=self._completion,
            messages=messages,
        )
        self._asked.shared.decisions.heard(spoken)

    def _heard(self, prompt: str, error: str) -> Heard:
        form = self._asked.body.get("response_format")
        asks_json = isinstance(form, dict) and form.get("type") in ("json_object", "json_schema")
        return Heard(
            prompt=prompt,
            answer="" if error else "".join(self._words)[:LONGEST],
            error=error,
            milliseconds=1000 * (time.perf_counter() - self._begun),
            prompt_tokens=int(self._usage.get("prompt_tokens") or 0),
            completion_tokens=int(self._usage.get("completion_tokens") or 0),
            form="json" if asks_json else "labels" if self._target.labels else "",
            labels=self._target.labels,
            logprobs=tuple(self._logprobs),
        )

    async def streamed(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """A stream's events; one whose client goes away in the middle tells nothing of who answered."""
        try:
            async with aclosing(events):  # type: ignore[type-var]
                async for event in events:
                    yield event
            self.end("" if self._finished else "broken_off")
        finally:
            if self._finished:
                self.end()


async def answered(asked: Asked, target: Target, ask: Callable[[Target], Awaitable[T]]) -> tuple[T, Target, Watch]:
    """What the drawn one answers; what a challenger fails at, the champion answers. Raises what the last one raises."""
    watch = asked.watch(target)
    try:
        return await ask(target), target, watch
    except MoatelierError as error:
        if not failed(error):
            raise
        watch.end(error.code)
        if target.side != "challenger":
            raise
    champion = replace(await asked.shared.targets.get((asked.project, target.requested)), split=None)
    return await ask(champion), champion, asked.watch(champion)


def try_unseen(asked: Asked, target: Target) -> None:
    """Have a challenger in the shadow answer too, behind the request; nobody waits for it, and nobody sees it."""
    split, unseen = target.split, asked.shared.decisions.unseen
    if split is None or not split.shadow or len(unseen) >= UNSEEN:
        return
    task = asyncio.ensure_future(_answer_unseen(asked, replace(split.challenger, split=split)))
    unseen.add(task)
    task.add_done_callback(unseen.discard)


async def _answer_unseen(asked: Asked, challenger: Target) -> None:
    watch = asked.watch(challenger, shadow=True)
    payload = {**asked.body, "model": challenger.served, "user": asked.project, "stream": False}
    payload.pop("stream_options", None)
    try:
        watch.take(await asked.shared.backend.chat(payload, challenger))
    except MoatelierError as error:
        if failed(error):
            watch.end(error.code)
        return
    watch.end()
