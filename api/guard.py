"""The door: what every request passes before a route sees it, and every answer on its way out.

In: the route's right, the key and its scopes, its limits, the body's bounds. Out: limits told in headers, tokens
counted, changes written to the audit log, and a stream that ends when its key does.

A change that ends in a failure, or with no answer at all, has a line too: what it did before is not known here.
"""

import json
import logging
import re
import time
from typing import Any

from anyio import CancelScope, to_thread
from starlette._utils import get_route_path
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors
from api.auth import CHANGES, KEY, need, secret_of
from api.bounds import Bounded, declared
from api.limits import METER, Header, Meter
from api.rights import Line, Table
from api.services import Services
from api.trace import request_id
from moatelier.errors import MoatelierError, NotFound, Unauthorized
from serving import sse
from store import audit
from store.keys import Key

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
MADE_IN = 65536
"""Of an answer no longer than this the audit line takes the id of what was made."""
GRACE_S = 30.0
"""While keys cannot be looked up, a stream whose key was good this recently goes on."""
log = logging.getLogger("moatelier.api")


class _Cut(Exception):
    """The answer was ended early."""


class Guard:
    """ASGI layer around the router.

    Args:
        app: What is guarded.
        table: Its routes with their rights.
    """

    def __init__(self, app: ASGIApp, table: Table) -> None:
        self.app, self._table = app, table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        assert scope["type"] == "http", "there are no web sockets here"
        if _CONTROL.search(scope["path"]):  # neither files nor rows have such names, and some stores fail at them
            error = NotFound("There is nothing whose name has control characters.")
            await errors.response(Request(scope), error)(scope, receive, send)
            return
        path = get_route_path(scope)  # as the router reads it
        line = self._table.find(scope["method"], path)
        if line is None:  # answered here: nothing without a right may depend on the router's not knowing it either
            await errors.not_here(Request(scope), self._table.methods(path))(scope, receive, send)
            return
        await _Passage(self.app, line, scope, receive, send).go()


class _Passage:
    """One request on its way."""

    def __init__(self, app: ASGIApp, line: Line, scope: Scope, receive: Receive, send: Send) -> None:
        self._app, self._line, self._scope, self._server, self._send = app, line, scope, receive, send
        self._receive: Receive = self._watched
        self._gone = self._entered = self._noted = False
        self._status: int | None = None
        self._good_at = time.monotonic()
        self._charged = 0
        self._services: Services = scope["app"].state.services
        self._key: Key | None = None
        self._secret = ""
        self._told: list[Header] = []
        self._meter: Meter | None = None
        self._held: Message | None = None
        self._started = self._cut = False
        self._events = False
        self._bounded: Bounded | None = None

    async def go(self) -> None:
        try:
            receive = await self._let_in()
            self._entered = True
            await self._app(self._scope, receive, self._out)
            if self._broken is not None and not self._started:
                await self._refuse(self._broken)
        except Exception as error:  # `_Cut` too, which streams wrap into groups
            if not self._cut:
                why = self._broken or error
                if self._started or not isinstance(why, MoatelierError):
                    raise
                await self._refuse(why)
        finally:
            if self._meter is not None and self._key is not None:
                self._services.limits.spend(self._key, self._meter.tokens - self._charged)
            await self._note_failure()

    @property
    def _broken(self) -> MoatelierError | None:
        """Why the body could not be read to its end."""
        return None if self._bounded is None else self._bounded.error

    async def _let_in(self) -> Receive:
        right, headers = self._line.right, dict(self._scope["headers"])
        # The bounds come first, so that whoever is refused for another reason can still be read out.
        self._bounded = Bounded(self._receive, declared(headers), upload=right.body == "upload")
        if right.scopes is not None:
            key = self._key = self._scope[KEY] = await self._services.callers.admit(self._scope)
            self._secret = secret_of(Request(self._scope).headers)
            need(key, right.scopes)
            asks = (right.asks or "infer" in right.scopes) and self._scope["method"] == "POST"
            self._told = self._services.limits.admit(key, asks=asks)
            if asks and self._services.limits.counts_tokens(key):
                self._meter = self._scope[METER] = Meter()
        receive: Receive = self._bounded.receive
        if self._bounded.whole:
            receive = self._receive
        elif right.body != "upload":
            receive = await self._bounded.json()
            self._charge(self._bounded.bytes)
        return receive

    def _charge(self, bytes: int) -> None:
        if self._meter is not None and self._key is not None:
            self._charged = self._meter.charge(bytes)
            self._services.limits.spend(self._key, self._charged)

    async def _watched(self) -> Message:
        """What the server says, with an eye on the client's leaving."""
        message = await self._server()
        self._gone = self._gone or message["type"] == "http.disconnect"
        return message

    async def _refuse(self, error: MoatelierError) -> None:
        """Answer with an error; a client that is still sending is first heard out for a moment."""
        answer = errors.response(Request(self._scope), error)
        self._status = answer.status_code
        answer.headers.raw.extend(self._told)
        unread = self._bounded is None or not self._bounded.whole
        if unread:
            answer.headers["connection"] = "close"
        sending = unread and b"expect" not in dict(self._scope["headers"])  # who asks first has not begun to send
        await self._send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
        await self._send({"type": "http.response.body", "body": answer.body, "more_body": sending})
        if sending:
            await (self._bounded or Bounded(self._receive, None, upload=False)).drain()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _out(self, message: Message) -> None:
        if self._broken is not None and not self._started:
            return  # whatever the route makes of a body that broke off: `go` says why
        if message["type"] == "http.response.start":
            await self._begin(message)
        else:
            await self._piece(message)

    async def _begin(self, message: Message) -> None:
        self._status = message["status"]
        message["headers"] = [*message["headers"], *self._told]
        headers = {name.lower(): value for name, value in message["headers"]}
        kind = headers.get(b"content-type", b"")
        if self._meter is not None and message["status"] >= 400 and not self._gone:
            self._meter.refund()
        self._events = kind.startswith(b"text/event-stream")
        if self._changes and message["status"] >= 500:
            await self._note_failure()
        if self._changes and message["status"] < 400:
            place = headers.get(b"content-location", headers.get(b"location"))
            length = int(headers.get(b"content-length", b"0"))
            if place is None and kind.startswith(b"application/json") and 0 < length <= MADE_IN:
                self._held = message  # until the body tells what was made
                return
            await self._audit(message["status"], place.decode("latin-1") if place else None)
        await self._forward(message)

    async def _piece(self, message: Message) -> None:
        if self._held is not None:
            start, self._held = self._held, None
            await self._audit(start["status"], _made(message.get("body", b"")))
            await self._forward(start)
        if self._meter is not None:
            self._meter.read(message.get("body", b""))
        if message.get("more_body") and self._key is not None:
            await self._still_good()
        await self._forward(message)

    @property
    def _changes(self) -> bool:
        return self._line.right.changes or CHANGES in self._scope

    async def _note_failure(self) -> None:
        """The line of a change that failed or was not answered; one that was refused has changed nothing."""
        if self._noted or not (self._entered and self._changes) or 400 <= (self._status or 0) < 500:
            return
        try:
            with CancelScope(shield=True):
                await self._audit(self._status, None)
        except MoatelierError:
            log.exception("request %s has no line in the audit log", request_id(self._scope))

    async def _forward(self, message: Message) -> None:
        self._started = True
        await self._send(message)

    async def _still_good(self) -> None:
        error: MoatelierError = Unauthorized("The API key has expired or was revoked.")
        try:
            if await self._services.callers.find(self._secret) is not None:
                self._good_at = time.monotonic()
                return
        except MoatelierError as failed:
            if time.monotonic() - self._good_at < GRACE_S:
                return
            error = failed
        self._cut = True
        if self._events:  # anything else breaks off, which its client sees by its length
            last = b"event: error\n" + sse.event(errors.envelope_of(error))
            await self._send({"type": "http.response.body", "body": last, "more_body": False})
        raise _Cut

    async def _audit(self, status: int | None, made: str | None) -> None:
        assert self._key is not None
        body: dict[str, Any] = {"route": self._line.name, "status": status, "request": request_id(self._scope)}
        body |= {"made": made} if made else {}
        project, actor, path = self._key.project, self._key.id, self._scope["path"]
        await to_thread.run_sync(lambda: audit.write(project, actor, "request", path, body))
        self._noted = True


def _made(body: bytes) -> str | None:
    try:
        made = json.loads(body)
    except ValueError:
        return None
    if not isinstance(made, dict):
        return None
    found = next((made[name] for name in ("id", "run_id", "thread_id", "run", "cron_id", "name") if name in made), None)
    return found if isinstance(found, str) else None
