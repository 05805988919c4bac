"""`/v1/audio/transcriptions` and `/v1/audio/translations`: what a recording says, in five forms or as a stream."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from sse_starlette import EventSourceResponse

from api import transcripts
from api.auth import Project
from api.bodies import passed_on, unless_gone
from api.services import Shared
from api.transcripts import TIMED, TYPES
from moatelier.contracts import RouteDecision
from moatelier.errors import InvalidRequest
from moatelier.ids import new_id
from moatelier.settings import settings
from modalities.audio import sound
from modalities.media import too_many_bytes
from serving.targets import Target

router = APIRouter()
WHISPER = "whisper-1"
"""What clients of the OpenAI service call the model; here it is the base that recordings are tuned on."""
GRANULARITIES = ("segment", "word")
Recording = tuple[str, bytes]
"""What its owner calls it, and its encoded bytes."""


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
    """One transcript; as a stream without times, whatever the form."""
    wanted = _granularities(timestamp_granularities, response_format)
    fields: dict[str, Any] = {"prompt": prompt, "temperature": str(temperature)}
    fields |= {"language": language} if language else {}
    target, recording = await _asked(shared, project, model, file)
    if stream:
        return await _streamed(request, shared, project, target, fields, recording)
    found = await _whole(request, shared, project, target, fields | {"timestamp_granularities[]": wanted}, recording)
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
    target, recording = await _asked(shared, project, model, file)
    found = await _whole(request, shared, project, target, fields | {"timestamp_granularities[]": wanted}, recording)
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


async def _asked(shared: Shared, project: str, model: str, file: UploadFile) -> tuple[Target, Recording]:
    target = await shared.targets.get((project, settings().audio_base if model == WHISPER else model))
    if target.modality != "audio":
        what = f"`{model}` is no model for recordings."
        raise InvalidRequest(what, where="model", remedy=f"Use {settings().audio_base}, or an adapter on it.")
    limit = sound.media()
    data = await file.read(limit.max_bytes + 1)
    if len(data) > limit.max_bytes:
        raise too_many_bytes("file", limit)
    return target, (file.filename or "recording", data)


async def _whole(
    request: Request, shared: Shared, project: str, target: Target, fields: dict[str, Any], recording: Recording
) -> dict[str, Any]:
    async def call() -> dict[str, Any]:
        return await shared.backend.upstream.transcribe({**fields, "model": target.served}, *recording)

    found = await unless_gone(request, shared.backend.with_adapter(target, call))
    return found | _noted(shared, project, target)


async def _streamed(
    request: Request, shared: Shared, project: str, target: Target, fields: dict[str, Any], recording: Recording
) -> Response:
    def call() -> AsyncGenerator[bytes, None]:
        return shared.backend.upstream.hear({**fields, "model": target.served}, *recording)

    chunks = await unless_gone(request, shared.backend.opened(call, target))
    _noted(shared, project, target)
    return EventSourceResponse(passed_on(chunks), sep="\n")


def _noted(shared: Shared, project: str, target: Target) -> dict[str, Any]:
    """Write down who answered; feedback is joined to it by the id."""
    completion = new_id("transcript")
    decision: RouteDecision = target.decision(completion)
    shared.decisions.note(project, decision)
    return {"id": completion, "model": target.model}
