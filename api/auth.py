"""Who is calling: `Authorization: Bearer mo-...` (as openai sends) or `x-api-key` (as langgraph-sdk does).

A bearer that is no key of ours is read as a token of the OpenID Connect issuer, where one is set.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import Scope as Asgi

from api.limits import Bucket
from moatelier.errors import Forbidden, RateLimited, Unauthorized
from moatelier.scopes import Scope
from moatelier.settings import settings
from serving.brief import Brief
from store.keys import Key, digest_of

KEY = "moatelier.key"
"""Where the guard leaves the caller's key in a request's scope."""
CHANGES = "moatelier.changes"
"""Where a route that mostly asks says that this request changes something, so that it is audited."""
REMEDY = "Send `Authorization: Bearer mo-...` or `x-api-key: mo-...`; the first start wrote one to keys/admin.key."
ADDRESSES = 4096


def secret_of(headers: Headers) -> str:
    """The key or token that a request carries, or nothing."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key", "").strip()


class Callers:
    """Finds the key of a request, and counts wrong ones by address.

    Args:
        keys: SHA-256 of a secret -> its key.
        token: A bearer token -> what it grants, as a key; None where no issuer is set.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        keys: Brief[str, Key | None],
        token: Brief[str, Key | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.keys, self.token, self._clock = keys, token, clock
        self._wrong: OrderedDict[str, Bucket] = OrderedDict()

    async def find(self, secret: str) -> Key | None:
        """The key, if it is good now."""
        if self.token is not None and secret.count(".") == 2:
            found = await self.token.get(secret)
        else:
            found = await self.keys.get(digest_of(secret))
        return found if found is not None and found.live else None

    async def admit(self, scope: Asgi) -> Key:
        """The key that a request carries.

        Raises:
            Unauthorized: No key, or one that is wrong, revoked or expired.
            RateLimited: Too many wrong ones have come from this address.
        """
        secret = secret_of(Headers(scope=scope))
        if not secret:
            raise Unauthorized("The request carries no API key.", remedy=REMEDY)
        # Looked up first: behind a proxy that is not believed all share one address, and guessers must shut nobody out.
        if (key := await self.find(secret)) is not None:
            return key
        address = address_of(scope)
        self._refuse_guessers(address)
        self._count(address)
        raise Unauthorized("The API key is wrong or was revoked, or has expired.", remedy=REMEDY)

    def _refuse_guessers(self, address: str) -> None:
        bucket = self._wrong.get(address)
        if bucket is not None and (wait := bucket.wait(1, self._clock())) > 0:
            raise RateLimited("Too many wrong keys have come from this address.", retry_after_s=wait)

    def _count(self, address: str) -> None:
        limit = settings().wrong_keys_per_minute
        bucket = self._wrong.setdefault(address, Bucket(limit, self._clock()))
        bucket.take(1, self._clock())
        self._wrong.move_to_end(address)
        if len(self._wrong) > ADDRESSES:
            self._wrong.popitem(last=False)


def address_of(scope: Asgi) -> str:
    """Where a request comes from; of IPv6 the network, since a caller has all of its addresses."""
    host = str((scope.get("client") or ("",))[0])
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return str(IPv6Address(int(address) >> 64 << 64)) if address.version == 6 else host


def need(key: Key, scopes: Sequence[Scope]) -> None:
    """Raise Forbidden if a key has none of these scopes."""
    if not key.may(scopes):
        wanted = " or ".join([*scopes, "admin"] if "admin" not in scopes else scopes)
        have = ", ".join(key.scopes) or "none"
        raise Forbidden(f"The key's scopes ({have}) do not open this.", remedy=f"Use a key with the scope {wanted}.")


def need_train(request: Request) -> None:
    """What a request to a route that asks models does, when it is a training that it asks for.

    Raises:
        Forbidden: The key does not open that.
    """
    need(request.scope[KEY], ("train",))
    request.scope[CHANGES] = True


async def caller(request: Request) -> Key:
    """The key that the request carries, as the guard has found it."""
    key = request.scope[KEY]
    assert isinstance(key, Key), "a route that is open to everybody has no caller"
    return key


Caller = Annotated[Key, Depends(caller)]


async def project(key: Caller) -> str:
    """The project whose key the request carries."""
    return key.project


Project = Annotated[str, Depends(project)]
