"""`/v1/files`: upload, list, look at, read back and delete training data."""

from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import FileResponse

from api.auth import Project
from api.file_shapes import file_json, kept_for, need_purpose
from api.pages import page
from store import datasets

router = APIRouter()


@router.post("/v1/files")
def upload(
    project: Project,
    file: Annotated[UploadFile, File()],
    purpose: Annotated[str, Form()] = "fine-tune",
    anchor: Annotated[str | None, Form(alias="expires_after[anchor]")] = None,
    seconds: Annotated[str | None, Form(alias="expires_after[seconds]")] = None,
) -> dict[str, Any]:
    """Store a file. It came in parts to a temporary file, so its size is not bound by memory."""
    need_purpose(purpose)
    keep_s = kept_for(anchor, seconds)
    return file_json(datasets.add_file(project, file.filename or "upload", file.file, purpose=purpose, keep_s=keep_s))


@router.get("/v1/files")
def list_files(
    project: Project,
    purpose: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
) -> dict[str, Any]:
    """The project's files, newest first unless `order=asc`."""
    files = sorted(datasets.list_files(project), key=lambda file: (file.created_at, file.id), reverse=order == "desc")
    return page([file_json(file) for file in files if purpose in (None, file.purpose)], after=after, limit=limit)


@router.get("/v1/files/{file_id}")
def get_file(file_id: str, project: Project) -> dict[str, Any]:
    """One file's description."""
    return file_json(datasets.get_file(project, file_id))


@router.get("/v1/files/{file_id}/content")
def content(file_id: str, project: Project) -> FileResponse:
    """The bytes as they were uploaded."""
    file = datasets.get_file(project, file_id)
    return FileResponse(datasets.file_path(project, file_id), filename=file.name, media_type="application/octet-stream")


@router.delete("/v1/files/{file_id}")
def delete(file_id: str, project: Project) -> dict[str, Any]:
    """Forget a file."""
    datasets.delete_file(project, file_id)
    return {"id": file_id, "object": "file", "deleted": True}
