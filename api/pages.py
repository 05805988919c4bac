"""Lists in pages: `{object: "list", data, has_more}`, the next page by `after=<last id>`."""

from typing import Any

from moatelier.errors import InvalidRequest


def page(rows: list[dict[str, Any]], *, after: str | None, limit: int) -> dict[str, Any]:
    """The page of `rows` that follows the row with id `after`.

    Raises:
        InvalidRequest: No row has that id.
    """
    if after is not None:
        ids = [row["id"] for row in rows]
        if after not in ids:
            raise InvalidRequest(f"`after` names no item of this list: {after}.", where="after")
        rows = rows[ids.index(after) + 1 :]
    return listing(rows[:limit], has_more=len(rows) > limit)


def listing(rows: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A list object around the rows of one page."""
    ids = [row["id"] for row in rows] or [None]
    return {"object": "list", "data": rows, "first_id": ids[0], "last_id": ids[-1], "has_more": has_more}
