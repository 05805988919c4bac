"""Files that come in parts. Parts lie in `uploads/<upload>/` until the whole is a file, is cancelled, or has expired.

A part is written beside its place and moved there, its row comes after its bytes, and the file comes into being at
once: whatever dies in between leaves an upload that can be gone on with, never half a file.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Literal, cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from moatelier.contracts import now
from moatelier.errors import Conflict, InvalidRequest, MoatelierError, NotFound, ResourceExhausted
from moatelier.ids import new_id
from moatelier.settings import settings
from store import datasets, projects
from store.db import reading, session
from store.dialect_tables import PartRow, UploadRow
from store.tables import FileRow, Stored

MOST_BYTES = 8 * 2**30
PART_BYTES = 64 * 2**20
OPEN_S = 3600.0
"""An upload that is not complete by then has expired."""
_PIECE = 1 << 20
_MOST_SENT = 2
"""Times the announced size that may lie here: parts that are sent again count as well."""
UploadStatus = Literal["pending", "completed", "cancelled", "expired"]


class Upload(Stored):
    """A file that comes in parts; `file` is its id once it is complete."""

    id: str
    project: str
    name: str
    purpose: str
    bytes: int
    mime_type: str
    status: UploadStatus
    keep_s: int | None
    file: str | None
    created_at: datetime
    expires_at: datetime


class Part(Stored):
    """A part of an upload."""

    id: str
    project: str
    upload: str
    bytes: int
    created_at: datetime


def create(project: str, *, name: str, purpose: str, bytes: int, mime_type: str, keep_s: int | None = None) -> Upload:
    """Begin an upload.

    Args:
        project: Whose file it will be.
        name: What the person calls it.
        purpose: As in OpenAI's API.
        bytes: How large the whole is.
        mime_type: What the client says it is.
        keep_s: How long the file shall be kept, in seconds; None is for ever.

    Raises:
        InvalidRequest: It is empty or too large.
        QuotaExceeded: The project may not keep so much.
    """
    if not 0 < bytes <= MOST_BYTES:
        raise InvalidRequest(
            f"An upload has 1 to {MOST_BYTES} bytes, not {bytes}.", where="bytes", remedy="Divide the file."
        )
    begun = now()
    row = UploadRow(id=new_id("upload"), project=project, name=name, purpose=purpose, bytes=bytes, status="pending")
    row.mime_type, row.keep_s, row.created_at = mime_type, keep_s, begun
    row.expires_at = begun + timedelta(seconds=OPEN_S)
    with session() as opened:
        projects.need_storage(opened, project, bytes)
        opened.add(row)
        opened.flush()
        return Upload.model_validate(row)


def get(project: str, id: str) -> Upload:
    """An upload of this project. Raises NotFound."""
    with reading() as opened:
        row = opened.get(UploadRow, id)
        if row is None or row.project != project:
            raise _no_upload(id)
        found = Upload.model_validate(row)
    expired = found.status == "pending" and found.expires_at <= now()
    return found.model_copy(update={"status": "expired"}) if expired else found


def _no_upload(id: str) -> NotFound:
    return NotFound("There is no such upload in this project.", where=id, remedy="Begin one: POST /v1/uploads.")


def _pending(project: str, id: str) -> Upload:
    found = get(project, id)
    if found.status != "pending":
        raise Conflict(f"The upload is {found.status}.", where=id, remedy="Begin another one: POST /v1/uploads.")
    return found


def parts(upload: Upload) -> list[Part]:
    """What has come so far, oldest first."""
    query = select(PartRow).where(PartRow.upload == upload.id).order_by(PartRow.created_at, PartRow.id)
    with reading() as opened:
        return [Part.model_validate(row) for row in opened.scalars(query)]


def add_part(project: str, id: str, stream: BinaryIO) -> Part:
    """Keep a part, read piece by piece to its end. A part that is sent again is another part.

    Raises:
        NotFound: There is no such upload.
        Conflict: It has ended.
        InvalidRequest: The part is empty or too large, or more has come than was announced.
        QuotaExceeded: The project may not keep so much.
        ResourceExhausted: The disk is full.
    """
    upload = _pending(project, id)
    part = new_id("part")
    target = _folder(id) / part
    try:
        size = _write(stream, target, upload)
        with session() as opened:
            projects.need_storage(opened, project, size)
            above = opened.get(UploadRow, id, with_for_update=True)
            if above is None or above.status != "pending":  # it was ended while the part came
                raise _has_ended(id)
            come = opened.scalar(select(func.sum(PartRow.bytes)).where(PartRow.upload == id)) or 0
            if come + size > _MOST_SENT * upload.bytes:  # other parts came at the same time
                raise _too_much(_MOST_SENT * upload.bytes - come, upload)
            row = PartRow(id=part, project=project, upload=id, bytes=size, created_at=now())
            opened.add(row)
            opened.flush()
            return Part.model_validate(row)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _has_ended(id: str) -> Conflict:
    return Conflict("The upload has ended.", where=id, remedy="Begin another one: POST /v1/uploads.")


def _too_much(most: int, upload: Upload) -> InvalidRequest:
    return InvalidRequest(
        f"The part is larger than the {most} bytes that may still come.",
        where="data",
        remedy=f"Send parts of at most {PART_BYTES} bytes, {upload.bytes} together.",
    )


def _write(stream: BinaryIO, target: Path, upload: Upload) -> int:
    come = sum(part.bytes for part in parts(upload))
    most = min(PART_BYTES, _MOST_SENT * upload.bytes - come)
    size, draft = 0, target.with_name(f".{target.name}")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with draft.open("wb") as file:
            while piece := stream.read(_PIECE):
                size += len(piece)
                if size > most:
                    raise _too_much(most, upload)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if not size:
            raise InvalidRequest("The part is empty.", where="data", remedy="Send at least a byte.")
        draft.replace(target)
    except FileNotFoundError:  # the folder went away under it
        raise _has_ended(upload.id) from None
    except OSError as error:
        raise ResourceExhausted(
            f"Writing failed: {error.strerror}.", where=str(target), remedy="Free some disk space and try again."
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return size


def complete(project: str, id: str, part_ids: Sequence[str], md5: str | None = None) -> tuple[Upload, datasets.File]:
    """Make the parts a file, in the order given. Asked again for what is complete, it gives the same file.

    Raises:
        NotFound: There is no such upload.
        Conflict: It was cancelled or has expired.
        InvalidRequest: A part is not its, is named twice, or the whole is not what was announced.
    """
    upload = get(project, id)
    if upload.status == "completed" and upload.file:  # a client that did not hear of it asks again
        return upload, datasets.get_file(project, upload.file)
    upload = _pending(project, id)
    try:
        file = _joined(upload, part_ids, md5)
    except (OSError, MoatelierError):
        done = get(project, id)
        if done.status == "completed" and done.file:  # the same was asked twice at once, and the other one was first
            return done, datasets.get_file(project, done.file)
        raise
    ended = _end(project, id, "completed", file=file.id)
    if ended.status != "completed":  # somebody else was quicker to cancel it
        datasets.delete_file(project, file.id)
        raise Conflict(f"The upload is {ended.status}.", where=id, remedy="Begin another one: POST /v1/uploads.")
    return ended, file


def _joined(upload: Upload, part_ids: Sequence[str], md5: str | None) -> datasets.File:
    chosen = _chosen(upload, part_ids)
    _need_whole(upload, chosen, md5)
    stream = cast(BinaryIO, _Joined([_folder(upload.id) / part.id for part in chosen]))
    name = _file_of(upload.id)
    return datasets.add_file(
        upload.project, upload.name, stream, upload.purpose, id=name, keep_s=upload.keep_s, upload=upload.id
    )


def _file_of(id: str) -> str:
    """The file's id is that of the upload, so that who was killed after making it makes no second one."""
    return f"file-{id.removeprefix('upload-')}"


def _chosen(upload: Upload, part_ids: Sequence[str]) -> list[Part]:
    known = {part.id: part for part in parts(upload)}
    unknown = next((part for part in part_ids if part not in known), None)
    if unknown is not None or len(set(part_ids)) < len(part_ids):
        what = f"The upload has no part {unknown}." if unknown is not None else "A part is named twice."
        raise InvalidRequest(what, where="part_ids", remedy="Name each of its parts once, in their order.")
    return [known[part] for part in part_ids]


def _need_whole(upload: Upload, chosen: Sequence[Part], md5: str | None) -> None:
    size = sum(part.bytes for part in chosen)
    if size != upload.bytes:
        raise InvalidRequest(
            f"The parts have {size} bytes together, and {upload.bytes} were announced.",
            where="part_ids",
            remedy="Send what is missing, or name other parts.",
        )
    if md5 is None:
        return
    hashed = hashlib.md5(usedforsecurity=False)
    for piece in _pieces([_folder(upload.id) / part.id for part in chosen]):
        hashed.update(piece)
    if hashed.hexdigest() != md5.lower():
        raise InvalidRequest("The bytes are not those that `md5` tells of.", where="md5", remedy="Send them again.")


def _pieces(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece


class _Joined:
    """Files one after the other, to be read as one stream."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._pieces = _pieces(paths)

    def read(self, _: int = -1) -> bytes:
        """The next piece, of whatever size; empty at the end."""
        return next(self._pieces, b"")


def cancel(project: str, id: str) -> Upload:
    """End an upload; its parts are deleted. Raises NotFound, and Conflict when it has ended."""
    _pending(project, id)
    ended = _end(project, id, "cancelled")
    if ended.status != "cancelled":
        raise Conflict(f"The upload is {ended.status}.", where=id, remedy="Begin another one: POST /v1/uploads.")
    return ended


def _end(project: str, id: str, status: UploadStatus, file: str | None = None) -> Upload:
    with session() as opened:
        row = opened.get(UploadRow, id, with_for_update=True)
        if row is None or row.project != project:
            raise _no_upload(id)
        if row.status == "pending":
            made = opened.get(FileRow, _file_of(id))
            if made is not None and made.project == project:  # whoever made it was killed before saying so
                status, file = "completed", made.id
            row.status, row.file = status, file
        _forget_parts(opened, id)
        ended = Upload.model_validate(row)
    shutil.rmtree(_folder(id), ignore_errors=True)
    return ended


def _forget_parts(opened: Session, id: str) -> None:
    for part in opened.scalars(select(PartRow).where(PartRow.upload == id)):
        opened.delete(part)


def remove_expired() -> int:
    """End the uploads that were not completed in time; how many. For the sweeper."""
    query = select(UploadRow).where(UploadRow.status == "pending", UploadRow.expires_at <= now())
    with reading() as opened:
        late = [(row.project, row.id) for row in opened.scalars(query)]
    for project, id in late:
        _end(project, id, "expired")
    return len(late)


def _folder(id: str) -> Path:
    return settings().home / "uploads" / id
