"""`/v1/uploads`: a file in parts, each of which may be sent again; it is a file once all of it is there."""

from typing import Annotated, Any

from fastapi import APIRouter, File, UploadFile
from pydantic import Field

from api.auth import Project
from api.bodies import STRICT
from api.file_shapes import ExpiresAfter, Purpose, part_json, upload_json
from moatelier.contracts.base import Contract
from store import datasets, uploads

router = APIRouter(prefix="/v1/uploads", dependencies=[STRICT])


class UploadRequest(Contract):
    """The file that is to come."""

    bytes: int = Field(ge=1, le=uploads.MOST_BYTES)
    filename: str = Field(min_length=1, max_length=500)
    mime_type: str = Field(min_length=1, max_length=200)
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class Completion(Contract):
    """The parts in their order."""

    part_ids: list[str] = Field(min_length=1, max_length=10_000)
    md5: str | None = Field(default=None, pattern="^[0-9a-fA-F]{32}$")


@router.post("")
def create(project: Project, body: UploadRequest) -> dict[str, Any]:
    """Begin an upload; it expires after an hour."""
    keep_s = body.expires_after.seconds if body.expires_after else None
    told = body.model_dump(include={"bytes", "purpose", "mime_type"})
    return upload_json(uploads.create(project, name=body.filename, keep_s=keep_s, **told))


@router.get("/{upload_id}")
def get_upload(upload_id: str, project: Project) -> dict[str, Any]:
    """How far an upload is, with its parts, for a client that has lost its place."""
    upload = uploads.get(project, upload_id)
    file = datasets.get_file(project, upload.file) if upload.file else None
    parts = [{**part_json(part), "bytes": part.bytes} for part in uploads.parts(upload)]
    return {**upload_json(upload, file), "parts": parts}


@router.post("/{upload_id}/parts")
def add_part(upload_id: str, project: Project, data: Annotated[UploadFile, File()]) -> dict[str, Any]:
    """Keep a part. Raises Conflict, status 400, when the upload has ended."""
    return part_json(uploads.add_part(project, upload_id, data.file))


@router.post("/{upload_id}/complete")
def complete(upload_id: str, project: Project, body: Completion) -> dict[str, Any]:
    """Make the parts a file. Raises InvalidRequest when they are not what was announced."""
    return upload_json(*uploads.complete(project, upload_id, body.part_ids, body.md5))


@router.post("/{upload_id}/cancel")
def cancel(upload_id: str, project: Project) -> dict[str, Any]:
    """End an upload and delete its parts. Raises Conflict when it has ended."""
    return upload_json(uploads.cancel(project, upload_id))
