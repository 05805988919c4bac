"""What is kept of each request: its id, one line in the log, its place in the metrics. Never a prompt, never a key.

Each response carries `x-request-id`, the client's own if it sent one that is fit to be logged. Whoever works on a
request further down adds to its line by `tell`, without having been handed anything: the record is in the context.
"""

import logging
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import trace
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import metrics
from moatelier import genai
from moatelier.ids import new_id
from moatelier.logs import FIELDS

_KEY = "moatelier.request_id"
_FIT = re.compile(r"[A-Za-z0-9._-]{1,80}")
QUIET = ("/healthz", "/readyz", "/metrics")
"""Asked every few seconds by machines: their lines are for those who debug."""
GONE = 499
"""The client went away before there was an answer; as nginx calls it."""
SPAN = {
    "model": genai.REQUEST_MODEL,
    "reason": genai.ROUTE_REASON,
    "way": genai.WAY,
    "prompt_tokens": genai.INPUT_TOKENS,
    "completion_tokens": genai.OUTPUT_TOKENS,
}
"""What of a request's line its span is told too."""
log = logging.getLogger("moatelier.request")


@dataclass
class Record:
    """One request on its way.

    Attributes:
        id: Its id.
        begun: By the clock of `time.perf_counter`.
        first: When its answer began.
        status: Of its answer.
        told: What else belongs to its line.
        span: Of its trace.
    """

    id: str
    begun: float = field(default_factory=time.perf_counter)
    first: float | None = None
    status: int | None = None
    told: dict[str, Any] = field(default_factory=dict)
    span: trace.Span = field(default_factory=trace.get_current_span)


_current: ContextVar[Record | None] = ContextVar("moatelier.request", default=None)


def request_id(scope: Scope) -> str:
    """The id of the request that this scope belongs to."""
    return str(scope.get(_KEY, ""))


def tell(**fields: Any) -> None:
    """Add to the line of the request that is being worked on: names and numbers, never what somebody said."""
    if record := _current.get():
        record.told |= fields
        record.span.set_attributes({SPAN[name]: value for name, value in fields.items() if name in SPAN})


def tell_usage(answer: Mapping[str, Any]) -> None:
    """Add the tokens that an answer, or a chunk of one, tells of."""
    usage = answer.get("usage")
    if isinstance(usage, Mapping):
        counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
        tell(**{name: count for name, count in counts.items() if type(count) is int and count >= 0})


class RequestIds:
    """The outermost ASGI layer: gives each request an id, stamps it on the response, and writes down how it went."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with an id."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        record = Record(given if _FIT.fullmatch(given) else new_id("req"))
        scope[_KEY] = record.id
        record.span.set_attribute(genai.REQUEST_ID, record.id)

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = record.id
                record.first, record.status = time.perf_counter(), message["status"]
            await send(message)

        token = _current.set(record)
        metrics.IN_FLIGHT.inc()
        try:
            await self.app(scope, receive, stamped)
        except Exception:
            record.status = record.status or 500  # what Starlette's outermost layer answers
            raise
        finally:
            metrics.IN_FLIGHT.dec()
            _current.reset(token)
            _write(scope, record)


def _write(scope: Scope, record: Record) -> None:
    ended, method, route = time.perf_counter(), metrics.method(scope["method"]), _route(scope)
    status = record.status or GONE
    metrics.request(method, route, status, ended - record.begun, (record.first or ended) - record.begun, record.told)
    line = {"request": record.id, "method": method, "route": route, "status": status}
    line |= {"seconds": round(ended - record.begun, 4)} | record.told
    quiet = status < 400 and route in QUIET
    log.log(logging.DEBUG if quiet else logging.INFO, "%s %s %d", method, route, status, extra={FIELDS: line})


def _route(scope: Scope) -> str:
    """The route's template: a path itself may hold anything, and there are endlessly many."""
    return str(getattr(scope.get("route"), "path", "none"))
