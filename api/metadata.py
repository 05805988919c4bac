"""`metadata[k]=v` in a query: what lists of things with metadata are narrowed by."""

import re

from fastapi import Request

_PLACE = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)


def wanted(request: Request) -> dict[str, str] | None:
    """Name -> value that a thing's metadata must have; None where it must have none (`metadata=null`)."""
    if request.query_params.get("metadata") == "null":
        return None
    found = ((_PLACE.fullmatch(name), value) for name, value in request.query_params.items())
    return {match[1]: value for match, value in found if match}


def fits(metadata: dict[str, str] | None, asked: dict[str, str] | None) -> bool:
    """Whether a thing has what was asked for."""
    if asked is None:
        return not metadata
    return asked.items() <= (metadata or {}).items()
