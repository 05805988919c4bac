"""Bodies that we pass on or look into ourselves: requests, and answers that come as streams."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from api.errors import envelope_of
from api.limits import METER, Meter
from api.trace import tell_usage
from moatelier.errors import Cancelled, InvalidRequest, MoatelierError
from serving import sse

T = TypeVar("T")


async def json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object; an empty body is an empty object.

    Raises:
        InvalidRequest: It is something else.
    """
    body = await _json(request)
    if not isinstance(body, dict):
        raise InvalidRequest(f"The body is a JSON {type(body).__name__}, not an object.", remedy="Send a JSON object.")
    return body


async def json_objects(request: Request) -> list[dict[str, Any]]:
    """The body as a JSON list of objects. Raises like `json_object`."""
    body = await _json(request)
    if not isinstance(body, list) or not all(isinstance(item, dict) for item in body):
        raise InvalidRequest("The body is no JSON list of objects.", remedy="Send a list of objects.")
    return body


async def _json(request: Request) -> Any:
    raw = await request.body()
    try:
        body = json.loads(raw, parse_constant=_no_number) if raw.strip() else {}
        if b"\\ud" in raw.lower():  # halves of characters can be written so, and could not be passed on
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8
        raise InvalidRequest(f"The body is not JSON: {error}.", remedy="Send a JSON object.") from error
    return body


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


Body = Annotated[dict[str, Any], Depends(json_object)]
Bodies = Annotated[list[dict[str, Any]], Depends(json_objects)]


async def strict_json(request: Request) -> None:
    """Refuse what Python reads and JSON lacks, NaN and halves of characters: they could not be answered with.

    For routes whose bodies become contracts. Raises like `json_object`.
    """
    if "json" in request.headers.get("content-type", ""):
        await json_object(request)


STRICT = Depends(strict_json)


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Await `work`, but cancel it as soon as the client closes its connection. The body must have been read.

    Raises:
        Cancelled: The client is gone; nobody will see the response.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Cancelled("The client closed the connection before the answer was there.")
        answer = task.result()
        if isinstance(answer, dict):
            tell_usage(answer)
        return answer
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def wants_usage(body: dict[str, Any]) -> bool:
    """Whether a stream's client asks to be told what it cost."""
    options = body.get("stream_options")
    return bool(options.get("include_usage")) if isinstance(options, dict) else False


def metered(request: Request, body: dict[str, Any]) -> tuple[dict[str, Any], Meter | None]:
    """A chat's body so that its stream tells what it cost, where that counts and its client does not ask for it.

    Returns:
        The fields to add to the body, and the meter for `passed_on`.
    """
    meter = request.scope.get(METER)
    if meter is None or wants_usage(body):
        return {}, None
    return {"stream_options": {"include_usage": True}}, meter


async def passed_on(
    chunks: AsyncIterator[bytes],
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: body,
    *,
    meter: Meter | None = None,
) -> AsyncIterator[bytes]:
    """The engine's events, each changed; an answer that breaks off ends with an error event, never silently.

    Args:
        chunks: The engine's.
        change: What is done to each event.
        meter: Takes the engine's word on what the answer cost, which its client has not asked for and is not sent.
    """
    try:
        async for body in sse.bodies(chunks):
            tell_usage(body)
            if meter is not None and "usage" in body:
                if usage := body.pop("usage"):
                    meter.tell(int(usage["total_tokens"]))
                if not body["choices"]:
                    continue
            yield sse.event(body if "error" in body else change(body))
            if "error" in body:
                return
        yield b"data: [DONE]\n\n"
    except MoatelierError as error:
        yield sse.event(envelope_of(error))
