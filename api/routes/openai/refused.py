"""What clients of the OpenAI service may ask for and this one does not do: said so, rather than not found."""

from typing import Any

from fastapi import APIRouter

from api.auth import Project
from moatelier.errors import InvalidRequest

router = APIRouter()


@router.get("/v1/chat/completions")
@router.get("/v1/chat/completions/{completion_id}")
@router.post("/v1/chat/completions/{completion_id}")
@router.delete("/v1/chat/completions/{completion_id}")
@router.get("/v1/chat/completions/{completion_id}/messages")
def refuse_stored(project: Project) -> dict[str, Any]:
    """Refused: chat completions are not kept.

    Raises:
        InvalidRequest: Always.
    """
    raise InvalidRequest("Chat completions are not stored.", where="store", remedy="Use /v1/responses, which are.")


@router.post("/v1/audio/speech")
def refuse_speech(project: Project) -> dict[str, Any]:
    """Refused: nothing here speaks.

    Raises:
        InvalidRequest: Always.
    """
    raise InvalidRequest(
        "No model here speaks.", where="model", remedy="Recordings are heard: /v1/audio/transcriptions."
    )
