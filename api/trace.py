"""Request ids: each response carries `x-request-id`, the client's own if it sent one that is fit to be logged."""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moatelier.ids import new_id

_KEY = "moatelier.request_id"
_FIT = re.compile(r"[A-Za-z0-9._-]{1,80}")


def request_id(scope: Scope) -> str:
    """The id of the request that this scope belongs to."""
    return str(scope.get(_KEY, ""))


class RequestIds:
    """ASGI layer that gives each request an id and stamps it on the response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with an id."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        scope[_KEY] = given if _FIT.fullmatch(given) else new_id("req")

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = scope[_KEY]
            await send(message)

        await self.app(scope, receive, stamped)
