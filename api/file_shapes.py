"""Files and uploads as the openai package reads them, and what it may say of how long to keep them."""

from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from moatelier.contracts.base import Contract
from moatelier.errors import InvalidRequest
from store import datasets, uploads

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
PURPOSES: tuple[str, ...] = get_args(Purpose)


class ExpiresAfter(Contract):
    """How long to keep a file: an hour to 30 days from its making."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


def kept_for(anchor: str | None, seconds: str | None) -> int | None:
    """Seconds from the fields of a form, None where there are none. Raises InvalidRequest."""
    if anchor is None and seconds is None:
        return None
    try:
        return ExpiresAfter.model_validate({"anchor": anchor, "seconds": seconds}).seconds
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidRequest(
            f"This is no time to keep a file for: {first['msg']}.",
            where=f"expires_after.{'.'.join(map(str, first['loc']))}",
            remedy='Send {"anchor": "created_at", "seconds": ...}, an hour to 30 days.',
        ) from error


def need_purpose(purpose: str) -> None:
    """Raise InvalidRequest if a file cannot be for this."""
    if purpose not in PURPOSES:
        raise InvalidRequest(
            f"There is no purpose {purpose!r}.", where="purpose", remedy=f"Use one of {', '.join(PURPOSES)}."
        )


def file_json(file: datasets.File) -> dict[str, Any]:
    """A `FileObject`. What a file holds is told when it is used: a plan, or a job's error, names the row."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": int(file.expires_at.timestamp()) if file.expires_at else None,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def upload_json(upload: uploads.Upload, file: datasets.File | None = None) -> dict[str, Any]:
    """An `Upload`."""
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": int(upload.created_at.timestamp()),
        "expires_at": int(upload.expires_at.timestamp()),
        "filename": upload.name,
        "purpose": upload.purpose,
        "status": upload.status,
        "file": file_json(file) if file else None,
    }


def part_json(part: uploads.Part) -> dict[str, Any]:
    """An `UploadPart`."""
    return {
        "id": part.id,
        "object": "upload.part",
        "created_at": int(part.created_at.timestamp()),
        "upload_id": part.upload,
    }
