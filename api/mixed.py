"""A request to `moa/<name>` as a chat completion: whole, or as a stream that tells of its progress before it answers.

What a client sees is a chat completion and nothing else: progress comes as chunks with empty words, and everything
about the recipe stands in the field `moatelier`, which other clients ignore.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from api.errors import envelope_of
from moatelier.contracts import RouteDecision, Trace, now
from moatelier.contracts.recipes import PREFIX
from moatelier.errors import InvalidRequest, MoatelierError
from moatelier.ids import new_id
from serving import sse
from serving.mixtures import Mixture

LOGPROBS = ("logprobs", "top_logprobs", "prompt_logprobs")
NOT_PASSED_ON = frozenset({"model", "messages", "stream", "stream_options", "n", *LOGPROBS})
"""Fields that are the whole request's affair, not that of each call."""
REFUSED: Mapping[str, tuple[Any, ...]] = {
    # Each would change the answer; what it may be nevertheless, because it changes nothing.
    "n": (None, 1),
    **dict.fromkeys(LOGPROBS, (None, False)),
    **dict.fromkeys(("tools", "functions"), (None, [])),
    **dict.fromkeys(("tool_choice", "function_call"), (None, "none", "auto")),
    "audio": (None,),
}


def fields_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """What each model is sent beside the messages.

    Raises:
        InvalidRequest: A field that a recipe cannot honour.
    """
    for name, allowed in REFUSED.items():
        if name in body and body[name] not in allowed:
            raise InvalidRequest(
                f"A recipe makes one answer of many: {name} is not supported.", where=name, remedy="Leave it out."
            )
    if not all(isinstance(message, dict) for message in body["messages"]):
        raise InvalidRequest("A message is no object.", where="messages", remedy='Send {"role": ..., "content": ...}.')
    return {name: value for name, value in body.items() if name not in NOT_PASSED_ON}


@dataclass(frozen=True)
class Frame:
    """What all chunks of one answer, or its one body, have in common."""

    mixture: Mixture
    subject: str | None = None
    """For whom it is, as a digest, where the request names a user."""
    id: str = field(default_factory=lambda: new_id("chatcmpl"))
    created: int = field(default_factory=lambda: int(now().timestamp()))

    @property
    def decision(self) -> RouteDecision:
        """What is kept of it; feedback is joined to it by the completion's id."""
        model = PREFIX + self.mixture.recipe.name
        chosen = self.mixture.stored.digest
        return RouteDecision(requested=model, chosen=chosen, reason="recipe", completion=self.id, subject=self.subject)

    def body(self, trace: Trace) -> dict[str, Any]:
        """A whole answer."""
        message = {"role": "assistant", "content": trace.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": trace.finish_reason}
        return self._frame("chat.completion") | {"choices": [choice], "usage": usage(trace), "moatelier": told(trace)}

    def chunk(self, delta: dict[str, str], finish: str | None = None, **more: Any) -> dict[str, Any]:
        """A piece of a streamed one."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._frame("chat.completion.chunk") | {"choices": [choice]} | more

    def last(self, trace: Trace) -> dict[str, Any]:
        """The chunk after the last, for those who asked for it."""
        return self._frame("chat.completion.chunk") | {"choices": [], "usage": usage(trace)}

    def _frame(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": PREFIX + self.mixture.recipe.name,
            "system_fingerprint": f"fp_{self.mixture.stored.digest[:24]}",
        }


def usage(trace: Trace) -> dict[str, int]:
    """Tokens of all calls together: what the answer has cost."""
    prompt, completion = trace.prompt_tokens, trace.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def told(trace: Trace) -> dict[str, Any]:
    """The `moatelier` field: route, calls, tokens, milliseconds; no texts but the answer's own."""
    route = trace.model_dump(mode="json", include={"extent", "effective", "probabilities", "way", "answered_by"})
    route |= {"requested": PREFIX + trace.name, "chosen": trace.recipe, "reason": "recipe"}
    route |= {"instead": trace.instead} if trace.instead else {}
    kept = {"layer", "place", "model", "adapter", "error", "milliseconds", "prompt_tokens", "completion_tokens"}
    calls = [call.model_dump(mode="json", include=kept) for call in trace.calls]
    tokens = {"prompt": trace.prompt_tokens, "completion": trace.completion_tokens}
    return {"route": route, "calls": calls, "tokens": tokens, "milliseconds": trace.milliseconds}


Answer = Callable[[Callable[[dict[str, Any]], None], Callable[[str], None]], Any]
"""(tell, say) -> the trace, awaited."""


async def stream(frame: Frame, answer: Answer, *, include_usage: bool) -> AsyncIterator[bytes]:
    """The answer's events: the role, one chunk for each step of its making, its words, how it was made.

    Closing the iterator stops every call that is under way.
    """
    news: asyncio.Queue[dict[str, Any] | str | None] = asyncio.Queue()
    task = asyncio.ensure_future(answer(news.put_nowait, news.put_nowait))

    def ended(done: asyncio.Future[Trace]) -> None:
        if not done.cancelled():
            done.exception()  # seen, also when nobody is there to hear of it
        news.put_nowait(None)

    task.add_done_callback(ended)
    blank = {"usage": None} if include_usage else {}
    spoken = False
    try:
        yield sse.event(frame.chunk({"role": "assistant", "content": ""}) | blank)
        while (piece := await news.get()) is not None:
            if isinstance(piece, str):
                spoken = True
                yield sse.event(frame.chunk({"content": piece}) | blank)
            else:  # with empty words: clients that look at choices[0] without asking are many
                yield sse.event(frame.chunk({"content": ""}, moatelier={"progress": piece}) | blank)
        trace: Trace = await task
        if not spoken:
            yield sse.event(frame.chunk({"content": trace.text}) | blank)
        yield sse.event(frame.chunk({}, trace.finish_reason, moatelier=told(trace)) | blank)
        if include_usage:
            yield sse.event(frame.last(trace))
        yield b"data: [DONE]\n\n"
    except MoatelierError as error:
        yield sse.event(envelope_of(error))
    finally:
        # Not awaited: whoever closes us cancels every wait again and again, and the graph, cancelled a second time
        # while it stops its nodes, would leave them running.
        task.cancel()
