"""Uploaded files, and the cards of the datasets that were made of them."""

from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from moatelier.contracts import DatasetCard, now
from moatelier.errors import Conflict, DataError, NotFound
from moatelier.ids import new_id
from store import artifacts, frozen, projects
from store.db import exclusive, insert_once, reading, session
from store.tables import CardRow, FileRow, Stored, TaskRow
from store.tasks import ENDED


class File(Stored):
    """An uploaded file. Its `id` is `file-...`, its bytes are the artifact `sha256`."""

    id: str
    project: str
    name: str
    purpose: str
    bytes: int
    sha256: str
    created_at: datetime
    expires_at: datetime | None = None
    """When it is deleted by itself; None is never."""


def add_file(
    project: str,
    name: str,
    stream: BinaryIO,
    purpose: str = "fine-tune",
    *,
    id: str | None = None,
    keep_s: int | None = None,
    upload: str = "",
) -> File:
    """Keep an upload, read piece by piece to its end.

    Args:
        project: Whose file it is.
        name: What the person calls it; a folder in front of it is cut off.
        stream: The bytes.
        purpose: As in OpenAI's API.
        id: Its id; who brings the same one again is given the file that has it.
        keep_s: How long it shall be kept, in seconds; None is for ever.
        upload: The upload whose parts it is made of, which take no room of their own then.

    Raises:
        DataError: The file is empty.
        Conflict: Another project's file has this id.
        QuotaExceeded: The project may not keep so much.
        ResourceExhausted: The disk is full; nothing is left behind.
    """
    name = name.replace("\\", "/").rsplit("/", 1)[-1].replace("\0", "").strip() or "unnamed"
    incoming = artifacts.Incoming(stream)
    try:
        if not incoming.bytes:
            raise DataError("The file is empty.", where=name, remedy="Send a file with rows.")
        with session() as opened:
            exclusive(opened, "files")  # `delete_file` must not remove the same bytes between these lines
            if id is not None and (known := opened.get(FileRow, id)) is not None:
                if known.project != project:
                    raise Conflict("This file id is taken.", where=id, remedy="Upload it without an id.")
                return File.model_validate(known)
            projects.need_storage(opened, project, incoming.bytes, upload)
            row = FileRow(id=id or new_id("file"), project=project, name=name, purpose=purpose, bytes=incoming.bytes)
            row.created_at = now()
            row.expires_at = None if keep_s is None else row.created_at + timedelta(seconds=keep_s)
            row.sha256 = incoming.keep()
            opened.add(row)
            opened.flush()
            return File.model_validate(row)
    finally:
        incoming.discard()


def get_file(project: str, id: str) -> File:
    """A file of this project. Raises NotFound."""
    with reading() as opened:
        return File.model_validate(_row(opened, project, id))


def _row(opened: Session, project: str, id: str) -> FileRow:
    row = opened.get(FileRow, id)
    if row is None or row.project != project or (row.expires_at and row.expires_at <= now()):
        raise NotFound("There is no such file in this project.", where=id, remedy="Upload it first: POST /v1/files.")
    return row


def list_files(project: str) -> list[File]:
    """The project's files, newest first."""
    kept = or_(FileRow.expires_at.is_(None), FileRow.expires_at > now())
    query = select(FileRow).where(FileRow.project == project, kept)
    query = query.order_by(FileRow.created_at.desc(), FileRow.id.desc())
    with reading() as opened:
        return [File.model_validate(row) for row in opened.scalars(query)]


def file_path(project: str, id: str) -> Path:
    """Where the file's bytes lie; read only. Raises NotFound."""
    return artifacts.path(get_file(project, id).sha256)


def delete_file(project: str, id: str) -> None:
    """Delete a file, and its bytes unless another upload has the same.

    Datasets made of it stay, as the adapters do that rest on them; what the frozen layers' cache holds of it goes.

    Raises:
        NotFound: There is no such file in this project.
        Conflict: A task that has not ended uses it.
    """
    with session() as opened:
        exclusive(opened, "files")
        _delete(opened, _row(opened, project, id))


def _delete(opened: Session, row: FileRow) -> None:
    using = select(TaskRow.id).where(or_(TaskRow.train_file == row.id, TaskRow.test_file == row.id))
    if task := opened.scalar(using.where(TaskRow.status.not_in(ENDED)).limit(1)):
        raise Conflict("A task that has not ended uses this file.", where=task, remedy="Cancel it or wait for its end.")
    opened.delete(row)
    opened.flush()
    if opened.scalar(select(FileRow.id).where(FileRow.sha256 == row.sha256).limit(1)) is None:
        artifacts.remove(row.sha256)
        frozen.clear([digest for digest in frozen.datasets() if get_card(digest).source == row.sha256])


def remove_expired() -> int:
    """Delete the files whose time is over and that no open task uses; how many. For the sweeper."""
    query = select(FileRow.id).where(FileRow.expires_at.is_not(None), FileRow.expires_at <= now())
    with reading() as opened:
        late = list(opened.scalars(query))
    removed = 0
    for id in late:
        with suppress(Conflict), session() as opened:
            exclusive(opened, "files")
            if (row := opened.get(FileRow, id)) is not None:
                _delete(opened, row)
            removed += 1
    return removed


def add_card(project: str, card: DatasetCard, task: str) -> str:
    """Keep a curated dataset's card and return its digest. Idempotent."""
    digest = artifacts.put_json(card)
    row = {"project": project, "digest": digest, "task": task, "name": card.name}
    with session() as opened:
        insert_once(opened, CardRow, [row], conflict=["project_id", "digest"])
    return digest


def get_card(digest: str) -> DatasetCard:
    """The card by its digest, from its artifact: no database is needed.

    Raises:
        NotFound: There is no such artifact, or it is no card.
        IntegrityError: Its bytes have changed.
    """
    try:
        return DatasetCard.model_validate(artifacts.get_json(digest))
    except ValidationError as error:
        raise NotFound("This artifact is not a dataset's card.", where=digest) from error


def list_cards(project: str, task: str | None = None) -> list[str]:
    """Digests of the project's (or one task's) dataset cards, newest first."""
    query = select(CardRow.digest).where(CardRow.project == project)
    if task is not None:
        query = query.where(CardRow.task == task)
    with reading() as opened:
        return list(opened.scalars(query.order_by(CardRow.created_at.desc())))
