"""Who is calling: `Authorization: Bearer mo-...` (as openai sends) or `x-api-key` (as langgraph-sdk does)."""

from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import Headers

from api.services import Shared
from moatelier.errors import Unauthorized
from store.keys import Key

REMEDY = "Send `Authorization: Bearer mo-...` or `x-api-key: mo-...`; the first start wrote one to keys/admin.key."


def _secret(headers: Headers) -> str:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key", "").strip()


async def caller(request: Request, shared: Shared) -> Key:
    """The key that the request carries.

    Raises:
        Unauthorized: No key, or one that is wrong or revoked.
    """
    secret = _secret(request.headers)
    if not secret:
        raise Unauthorized("The request carries no API key.", remedy=REMEDY)
    key = await shared.keys.get(secret)
    if key is None:
        raise Unauthorized("The API key is wrong or was revoked.", remedy=REMEDY)
    return key


Caller = Annotated[Key, Depends(caller)]


async def project(key: Caller) -> str:
    """The project whose key the request carries. Raises like `caller`."""
    return key.project


Project = Annotated[str, Depends(project)]
