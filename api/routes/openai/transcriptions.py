"""`/v1/audio/transcriptions` and `/v1/audio/translations`: what a recording says, in five forms or as a stream."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from sse_starlette import EventSourceResponse

from api import transcripts
from api.auth import Project
from api.bodies import unless_gone
from api.services import Shared
from api.transcripts import TIMED, TYPES
from moatelier.contracts import RouteDecision
from moatelier.errors import InvalidRequest
from moatelier.ids import new_id
from moatelier.settings import settings
from modalities.audio import sound
from modalities.media import too_many_bytes
from serving import sse
from serving.targets import Target

router = APIRouter()
WHISPER = "whisper-1"
"""What clients of the OpenAI service call the model; here it is the base that recordings are tuned on."""
GRANULARITIES = ("segment", "word")


@router.post("/v1/audio/transcriptions")
async def transcribe(
    request: Request,
    project: Project,
    shared: Shared,
    file: Annotated[UploadFile, File()],
    model: Annotated[str, Form()],
    language: Annotated[str | None, Form()] = None,
    prompt: Annotated[str, Form()] = "",
    temperature: Annotated[float, Form()] = 0.0,
    response_format: Annotated[transcripts.Form, Form()] = "json",
    stream: Annotated[bool, Form()] = False,
    timestamp_granularities: Annotated[list[str] | None, Form(alias="timestamp_granularities[]")] = None,
) -> Response:
    """One transcript."""
    wanted = _granularities(timestamp_granularities, response_format)
    fields = {"prompt": prompt, "temperature": str(temperature), "timestamp_granularities[]": wanted}
    if language:
        fields["language"] = language
    found = await _asked(request, shared, project, model, file, fields)
    if stream:
        return EventSourceResponse(_events(found), sep="\n")
    return Response(transcripts.written(found, response_format), media_type=TYPES[response_format])


@router.post("/v1/audio/translations")
async def translate(
    request: Request,
    project: Project,
    shared: Shared,
    file: Annotated[UploadFile, File()],
    model: Annotated[str, Form()],
    prompt: Annotated[str, Form()] = "",
    temperature: Annotated[float, Form()] = 0.0,
    response_format: Annotated[transcripts.Form, Form()] = "json",
) -> Response:
    """What a recording in another language says, in English; by a multilingual model."""
    wanted = _granularities(None, response_format)
    fields = {"prompt": prompt, "temperature": str(temperature), "translate": "true"}
    found = await _asked(request, shared, project, model, file, fields | {"timestamp_granularities[]": wanted})
    return Response(transcripts.written(found, response_format), media_type=TYPES[response_format])


def _granularities(given: list[str] | None, form: transcripts.Form) -> list[str]:
    for name in given or ():
        if name not in GRANULARITIES:
            what = f"There are no timestamps of {name!r}."
            raise InvalidRequest(what, where="timestamp_granularities[]", remedy="Use segment, word or both.")
    if given and form != "verbose_json":
        what = f"The form {form} has no timestamps to choose."
        raise InvalidRequest(what, where="timestamp_granularities[]", remedy="Ask for verbose_json.")
    return given or (["segment"] if form in TIMED else [])


async def _asked(
    request: Request, shared: Shared, project: str, model: str, file: UploadFile, fields: dict[str, Any]
) -> dict[str, Any]:
    target = await shared.targets.get((project, settings().audio_base if model == WHISPER else model))
    if target.modality != "audio":
        what = f"`{model}` is no model for recordings."
        raise InvalidRequest(what, where="model", remedy=f"Use {settings().audio_base}, or an adapter on it.")
    name = file.filename or "recording"
    limit = sound.media()
    data = await file.read(limit.max_bytes + 1)
    if len(data) > limit.max_bytes:
        raise too_many_bytes("file", limit)

    async def call() -> dict[str, Any]:
        return await shared.backend.upstream.transcribe({**fields, "model": target.served}, name, data)

    found = await unless_gone(request, shared.backend.with_adapter(target, call))
    return found | _noted(shared, project, target)


def _noted(shared: Shared, project: str, target: Target) -> dict[str, Any]:
    """Write down who answered; feedback is joined to it by the id."""
    completion = new_id("transcript")
    decision: RouteDecision = target.decision(completion)
    shared.decisions.note(project, decision)
    return {"id": completion, "model": target.model}


async def _events(found: dict[str, Any]) -> AsyncIterator[bytes]:
    told: Iterator[dict[str, Any]] = transcripts.events(found)
    for each in told:
        yield sse.event(each)
    yield b"data: [DONE]\n\n"
