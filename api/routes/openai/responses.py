"""`/v1/responses`, the younger dialect: texts, pictures and recordings in, one message out, kept in the store."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse

from api import responding, translated
from api.auth import Project
from api.bodies import Body
from api.pages import page
from api.services import Shared
from moatelier.errors import InvalidRequest
from store import responses

router = APIRouter(prefix="/v1/responses")


@router.post("")
async def create(request: Request, project: Project, shared: Shared, body: Body) -> Response:
    """One answer, whole or as the events of its making."""
    responding.check_fields(body)
    items = responding.read_items(body.get("input"))
    before = await to_thread.run_sync(_before, project, body.get("previous_response_id"))
    asked = responding.asked(body, responding.messages([*before, *items]))
    answer = responding.Answer(body, str(body.get("model")))
    keep = partial(_keep, project, answer, items)
    if body.get("stream"):
        asked["stream_options"] = {"include_usage": True}
        chunks, headers = await translated.streamed(request, project, shared, asked)
        return EventSourceResponse(_closing(answer, chunks, keep), sep="\n", headers=headers)
    whole, headers = await translated.whole(request, project, shared, asked)
    answer.take(whole)
    told = answer.body(answer.status)
    await keep(told)
    return JSONResponse(told, headers=headers)


async def _closing(answer: responding.Answer, chunks: Any, keep: Any) -> AsyncIterator[bytes]:
    async with aclosing(chunks):
        async for event in responding.events(answer, chunks, keep):
            yield event


def _before(project: str, previous: Any) -> list[dict[str, Any]]:
    """What was asked and answered before; instructions are not carried on, as the dialect has it."""
    if previous is None:
        return []
    if not isinstance(previous, str):
        raise InvalidRequest("A response is named by its id.", where="previous_response_id")
    said: list[dict[str, Any]] = []
    for response in responses.chain(project, previous):
        said += [*response.items, *response.body["output"]]
    return said


async def _keep(project: str, answer: responding.Answer, items: list[dict[str, Any]], body: dict[str, Any]) -> None:
    if body["store"]:
        put = partial(responses.put, previous=body["previous_response_id"], items=items, body=body)
        await to_thread.run_sync(put, project, answer.id)


@router.get("/{response_id}")
def retrieve(response_id: str, project: Project, stream: bool = False) -> dict[str, Any]:
    """A response that was stored.

    Raises:
        NotFound: There is none of this id.
        InvalidRequest: As a stream: only the making of one is streamed.
    """
    found = responses.get(project, response_id)
    if stream:
        remedy = "Retrieve it whole."
        raise InvalidRequest("A response that is there is not streamed again.", where="stream", remedy=remedy)
    return found.body


@router.delete("/{response_id}")
def delete(response_id: str, project: Project) -> dict[str, Any]:
    """Forget a response; those that went on from it cannot be gone on from any more."""
    responses.delete(project, response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@router.get("/{response_id}/input_items")
def list_input_items(
    response_id: str,
    project: Project,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
) -> dict[str, Any]:
    """What was asked, the last first unless `order=asc`."""
    items = responses.get(project, response_id).items
    return page(items if order == "asc" else items[::-1], after=after, limit=limit)


@router.post("/compact")
@router.post("/input_tokens")
@router.post("/{response_id}/cancel")
def refuse(project: Project) -> dict[str, Any]:
    """Refused: compaction, counting before asking, and cancelling what does not run in the background.

    Raises:
        InvalidRequest: Always.
    """
    remedy = "Create, retrieve and delete responses; close the connection to stop one."
    raise InvalidRequest("This part of the responses API is not offered.", remedy=remedy)
