"""Answers of `/v1/responses` with what they were asked. Each names the one before it, so that a dialogue can go on."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete as delete_rows
from sqlalchemy import select

from moatelier.contracts import now
from moatelier.errors import InvalidRequest, NotFound
from store.db import reading, session
from store.tables import ResponseRow, Stored

LONGEST = 500
"""Answers in a row that one request may go on from."""

KEPT = timedelta(days=30)
MOST = 10_000
"""Answers of a project that are kept, and for how long: whoever may ask models must not fill the disk by it."""


class Response(Stored):
    """One answer: `items` is what was asked, `body` the answer as its client saw it."""

    id: str
    project: str
    previous: str | None
    items: list[dict[str, Any]]
    body: dict[str, Any]
    created_at: datetime


def put(project: str, id: str, *, previous: str | None, items: Sequence[dict[str, Any]], body: dict[str, Any]) -> None:
    """Keep an answer; what is older than `KEPT`, or than the newest `MOST`, is forgotten."""
    mine = select(ResponseRow.id).where(ResponseRow.project == project)
    beyond = mine.order_by(ResponseRow.created_at.desc(), ResponseRow.id.desc()).offset(MOST).limit(100)
    with session() as opened:
        opened.add(ResponseRow(id=id, project=project, previous=previous, items=list(items), body=body))
        opened.flush()
        old = [*opened.scalars(mine.where(ResponseRow.created_at < now() - KEPT).limit(100)), *opened.scalars(beyond)]
        if old:
            opened.execute(delete_rows(ResponseRow).where(ResponseRow.id.in_(old)))


def get(project: str, id: str) -> Response:
    """An answer of this project. Raises NotFound."""
    with reading() as opened:
        row = opened.get(ResponseRow, id)
        if row is not None and row.project == project:
            return Response.model_validate(row)
    remedy = "It was deleted, or not stored: send the whole conversation as `input`."
    raise NotFound("There is no such response in this project.", where=id, remedy=remedy)


def chain(project: str, id: str) -> list[Response]:
    """An answer and those before it, oldest first.

    Raises:
        NotFound: One of them is gone.
        InvalidRequest: There are more than `LONGEST`.
    """
    found: list[Response] = []
    following: str | None = id
    while following is not None:
        if len(found) == LONGEST:
            remedy = "Send the part that matters as `input`."
            raise InvalidRequest(
                f"More than {LONGEST} responses in a row.", where="previous_response_id", remedy=remedy
            )
        found.append(get(project, following))
        following = found[-1].previous
    return found[::-1]


def delete(project: str, id: str) -> None:
    """Forget an answer. Raises NotFound."""
    get(project, id)
    with session() as opened:
        if row := opened.get(ResponseRow, id):
            opened.delete(row)
