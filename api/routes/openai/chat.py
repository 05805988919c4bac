"""`/v1/chat/completions`: find what answers under the model's name, forward to the engine, pass the answer on."""

from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse

from api import observing
from api.auth import Project
from api.bodies import Body, metered, passed_on, unless_gone
from api.routes.openai import conversing, mixtures
from api.services import Services, Shared
from moatelier.contracts.recipes import PREFIX
from moatelier.errors import InvalidRequest
from serving.auto import AUTO
from serving.targets import Target

router = APIRouter()


@router.post("/v1/chat/completions")
async def complete(request: Request, project: Project, shared: Shared, body: Body) -> Response:
    """One chat completion, whole or as a stream."""
    if _model(body) == conversing.NAME:
        return await conversing.complete(request, project, body)
    if body["model"].startswith(PREFIX):
        return await mixtures.complete(request, project, shared, body)
    asked, target = observing.drawn(shared, project, body, await _target(shared, project, body))
    # Who takes turns with whom is ours to say: a client that may name itself could be anybody's equal many times over.
    payload = {**body, "user": project}

    async def whole(by: Target) -> dict[str, Any]:
        return await unless_gone(request, shared.backend.chat({**payload, "model": by.served}, by))

    if not body.get("stream"):
        answer, target, watch = await observing.answered(asked, target, whole)
        watch.take(answer)
        watch.end()
        _label(answer, target)
        answer |= target.told
        shared.decisions.note(project, target.decision(str(answer.get("id", ""))))
        observing.try_unseen(asked, target)
        return JSONResponse(answer, headers=target.headers)
    counted, meter = metered(request, body)

    async def opened(by: Target) -> AsyncGenerator[bytes, None]:
        return await unless_gone(request, shared.backend.stream({**payload, "model": by.served} | counted, by))

    chunks, target, watch = await observing.answered(asked, target, opened)
    change = _relabelled(target, watch, partial(_note_once, shared, project, target, set()))
    events = watch.streamed(passed_on(chunks, change, meter=meter))
    observing.try_unseen(asked, target)
    return EventSourceResponse(events, sep="\n", headers=target.headers)


async def _target(shared: Services, project: str, body: dict[str, Any]) -> Target:
    model = body["model"]
    return await (
        shared.auto.target(project, body["messages"]) if model == AUTO else shared.targets.get((project, model))
    )


def _model(body: dict[str, Any]) -> str:
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("The request names no model.", where="model", remedy="GET /v1/models lists them.")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest(
            "The request has no messages.",
            where="messages",
            remedy='Send a list such as [{"role": "user", "content": "Hello"}].',
        )
    if "ensemble" in body:  # it names adapters as the engine knows them, whosever they are
        raise InvalidRequest("Models choose tokens together in a recipe.", where="ensemble", remedy="Ask `moa/<name>`.")
    return model


def _label(answer: dict[str, Any], target: Target) -> None:
    """The engine's own name for the adapter becomes the public one."""
    answer["model"], answer["system_fingerprint"] = target.model, target.fingerprint


def _note_once(shared: Services, project: str, target: Target, noted: set[str], completion: str) -> None:
    if not noted:
        noted.add(completion)
        shared.decisions.note(project, target.decision(completion))


def _relabelled(
    target: Target, watch: observing.Watch, note: Callable[[str], None]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Puts the engine's chunks under the public name."""
    told = target.told

    def change(chunk: dict[str, Any]) -> dict[str, Any]:
        nonlocal told
        watch.take(chunk)
        _label(chunk, target)
        note(str(chunk.get("id", "")))
        chunk, told = chunk | told, {}  # the first chunk alone says how it was routed
        return chunk

    return change
