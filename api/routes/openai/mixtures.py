"""Chat completions with `model: "moa/<name>"`: the recipe is found, asked, and its answer passed on."""

from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse

from api import metrics, mixed, observing
from api.bodies import unless_gone
from api.services import Services
from api.trace import tell
from moatelier.contracts import Trace
from serving.asking import TRAIL


async def complete(request: Request, project: str, shared: Services, body: dict[str, Any]) -> Response:
    """One chat completion by a recipe that is live, whole or as a stream.

    Raises:
        NotFound: There is no such recipe, or something that it names is gone.
        Conflict: It is no live one.
        InvalidRequest: It asks itself, or the request has a field that a recipe cannot honour.
        UpstreamError: Nobody answered.
    """
    fields = mixed.fields_of(body)
    mixture = await shared.mixtures.get((project, str(body["model"])))
    mixture.need_live()
    frame = mixed.Frame(mixture, observing.named(project, body))
    trail = tuple(name for name in request.headers.get(TRAIL, "").split(",") if name)

    async def ask(**heard: Any) -> Trace:
        trace = await shared.answers.answer(mixture, body["messages"], fields, trail=trail, **heard)
        metrics.mixture(trace)
        tell(way=trace.way, prompt_tokens=trace.prompt_tokens, completion_tokens=trace.completion_tokens)
        return trace

    if not body.get("stream"):
        trace = await unless_gone(request, ask())
        shared.decisions.note(project, frame.decision)
        return JSONResponse(frame.body(trace), headers={"x-moatelier-recipe": mixture.stored.digest})
    shared.answers.passable(mixture, trail)
    shared.decisions.note(project, frame.decision)
    options = body.get("stream_options")
    include_usage = bool(options.get("include_usage")) if isinstance(options, dict) else False
    events = mixed.stream(frame, lambda tell, say: ask(tell=tell, say=say), include_usage=include_usage)
    return EventSourceResponse(events, sep="\n", headers={"x-moatelier-recipe": mixture.stored.digest})
