"""Every failure leaves as OpenAI's envelope: `{"error": {message, type, param, code}}`, with the status it deserves.

Clients retry 408, 409, 429 and 5xx by themselves; `x-should-retry: false` tells them where that is of no use, and an
engine that does not answer (it may be restarting) says when to come back.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from api import metrics
from api.trace import request_id
from moatelier.errors import MoatelierError, Overloaded, RateLimited, UpstreamError

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
"""Status -> the envelope's `type`; other 4xx are `invalid_request_error`, 5xx `server_error`."""
RETRY_AFTER_MS = 500
log = logging.getLogger("moatelier.api")


def envelope(message: str, *, status: int, code: str | None, param: str | None = None) -> dict[str, Any]:
    """The body of an error response."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def envelope_of(error: MoatelierError) -> dict[str, Any]:
    """The envelope of one of our own errors; `param` is the place it names, unless that is a place of ours."""
    if error.status < 500:
        return envelope(str(error), status=error.status, code=error.code, param=error.where or None)
    what = "Something went wrong inside the service." if type(error) is MoatelierError else error.what
    return envelope(f"{what} {error.remedy}".strip(), status=error.status, code=error.code)


def response(request: Request, error: Exception) -> JSONResponse:
    """The whole response to one of our own errors."""
    assert isinstance(error, MoatelierError)
    if type(error) is MoatelierError:
        log.error("request %s failed", request_id(request.scope), exc_info=error)
    elif error.status >= 500 and error.where:  # which the client is not told
        log.warning("request %s failed: %s at %r", request_id(request.scope), error.code, error.where[:200])
    if isinstance(error, UpstreamError) and error.status >= 500:
        headers = {"retry-after-ms": str(RETRY_AFTER_MS)}
    elif isinstance(error, RateLimited):
        ms = math.ceil(1000 * error.retry_after_s)
        headers = {"retry-after-ms": str(ms), "retry-after": str(math.ceil(error.retry_after_s))}
    elif isinstance(error, Overloaded):
        metrics.OVERLOADED.inc()
        headers = {"retry-after": f"{math.ceil(error.retry_after_s)}"}
    else:
        headers = {"x-should-retry": "false"}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(envelope_of(error), status_code=error.status, headers=headers)


def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path", "header"))
    message = f"{place}: {first['msg']}." if place else f"{first['msg']}."
    return JSONResponse(envelope(message, status=400, code="invalid_request", param=place or None), status_code=400)


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message, code = str(error.detail), "invalid_request"
    if error.status_code == 404:
        message, code = f"There is no {request.method} {request.url.path} here.", "not_found"
    elif error.status_code == 405:
        message = f"{request.url.path} does not take {request.method}."
    body = envelope(message, status=error.status_code, code=code)
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


def not_here(request: Request, allowed: Sequence[str]) -> JSONResponse:
    """The response where no route is: 404, or 405 where there is one for other methods."""
    if not allowed:
        return _http(request, HTTPException(404))
    return _http(request, HTTPException(405, headers={"allow": ", ".join(allowed)}))


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    # Starlette's outermost layer sends this, outside of the layer that stamps request ids, and logs the traceback.
    known = request_id(request.scope)
    message = f"Something went wrong inside the service. Its log says more under request {known}."
    body = envelope(message, status=500, code="internal_error")
    return JSONResponse(body, status_code=500, headers={"x-request-id": known})


def install(app: FastAPI) -> None:
    """Make the app answer every failure with an envelope."""
    app.add_exception_handler(MoatelierError, response)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
