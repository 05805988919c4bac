"""The OpenAPI file: what FastAPI finds out by itself, and what it cannot know.

That is: which scope opens a route, that every failure is an envelope, what bodies hold that we read ourselves, and what
else than JSON a route may answer with.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts

from api.rights import RIGHTS
from moatelier import __version__

JSON, EVENTS, BYTES, ZIP = "application/json", "text/event-stream", "application/octet-stream", "application/zip"
TEXT = {"type": "string"}
OBJECT: dict[str, Any] = {"type": "object"}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": TEXT,
                "type": TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`mo-...`, or a token of the OIDC issuer."},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same, as langgraph-sdk sends."},
}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


_MESSAGES = {"type": "array", "minItems": 1, "items": _object(("role", "content"), role=TEXT, content={})}
_RUN = _object((), assistant_id=TEXT, input=OBJECT, command=OBJECT, metadata=OBJECT, stream_mode={})
BODIES: Mapping[str, dict[str, Any]] = {
    "POST /v1/chat/completions": _object(
        ("model", "messages"),
        model=TEXT,
        messages=_MESSAGES,
        stream={"type": "boolean"},
        n={"type": "integer"},
        temperature={"type": "number"},
        max_tokens={"type": "integer"},
        stop={},
        seed={"type": "integer"},
        response_format=OBJECT,
        stream_options=OBJECT,
    ),
    "POST /v1/classify": _object(("model", "input"), model=TEXT, input={}, labels={"type": "array"}),
    "POST /v1/embeddings": _object(("model", "input"), model=TEXT, input={}, encoding_format=TEXT),
    "POST /threads": _object((), thread_id=TEXT, metadata=OBJECT, if_exists=TEXT),
    "POST /threads/search": _object(
        (), status=TEXT, metadata=OBJECT, limit={"type": "integer"}, offset={"type": "integer"}
    ),
    "PATCH /threads/{thread_id}": _object((), metadata=OBJECT),
    "POST /threads/{thread_id}/runs": _RUN,
    "POST /threads/{thread_id}/runs/stream": _RUN,
    "POST /threads/{thread_id}/runs/wait": _RUN,
    "POST /v1/moa": _object(("yaml",), yaml=TEXT),
    "POST /v1/moa/{name}/disable": _object((), reason=TEXT),
    "POST /v1/moa/{name}/try": _object(("messages",), messages=_MESSAGES),
}
"""Bodies that a route reads as an object and checks itself."""
ANSWERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "GET /": {"200": ("text/html",)},
    "GET /readyz": {"200": (JSON,), "503": (JSON,)},
    "POST /v1/chat/completions": {"200": (JSON, EVENTS)},
    "POST /v1/completions": {"200": (JSON, EVENTS)},
    "POST /v1/responses": {"200": (JSON, EVENTS)},
    "POST /v1/audio/transcriptions": {"200": (JSON, "text/plain", "text/vtt", EVENTS)},
    "POST /v1/audio/translations": {"200": (JSON, "text/plain", "text/vtt")},
    "GET /v1/files/{file_id}/content": {"200": (BYTES,)},
    "POST /threads/{thread_id}/runs/stream": {"200": (EVENTS,)},
    "GET /threads/{thread_id}/runs/{run_id}/stream": {"200": (EVENTS,)},
    "GET /threads/{thread_id}/stream": {"200": (EVENTS,)},
    "POST /runs/stream": {"200": (EVENTS,)},
    "POST /threads/{thread_id}/runs/{run_id}/cancel": {"200": (JSON,), "202": ()},
    "PATCH /threads/{thread_id}": {"200": (JSON,), "204": ()},
    "GET /tasks/{task_id}/events": {"200": (JSON, EVENTS)},
    "GET /tasks/{task_id}/report": {"200": (ZIP,)},
    "GET /tasks/{task_id}/report/{name:path}": {"200": ("*/*",)},
    "GET /adapters/{name:path}/export": {"200": (ZIP,)},
    "GET /adapters/{name:path}/export/{run_id}/files": {"200": (ZIP,)},
}
"""Status -> content types, where FastAPI would say JSON."""


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI file of an app whose routes all have rights."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=__version__, routes=app.routes)
        parts = made.setdefault("components", {})
        parts.setdefault("schemas", {})["Error"] = ERROR
        parts["securitySchemes"] = SECURITY
        for name in ("HTTPValidationError", "ValidationError"):  # which are envelopes here
            parts["schemas"].pop(name, None)
        for route in iter_route_contexts(app.routes):
            for method in route.methods or ():
                operation = made["paths"].get(route.path_format, {}).get(method.lower())
                if operation is not None:
                    _complete(operation, f"{method} {route.path}")
        app.openapi_schema = made
    return app.openapi_schema


def _complete(operation: dict[str, Any], name: str) -> None:
    right = RIGHTS[name]
    operation["security"] = [] if right.scopes is None else [{kind: []} for kind in SECURITY]
    if right.scopes is not None:
        operation["x-scopes"] = list(right.scopes)
    method = name.split(" ")[0]
    if method in ("POST", "PATCH", "PUT") and right.body == "json" and "requestBody" not in operation:
        content = {JSON: {"schema": BODIES.get(name, OBJECT)}}
        operation["requestBody"] = {"content": content, "required": bool(BODIES.get(name, OBJECT).get("required"))}
    answers = operation["responses"]
    answers.pop("422", None)
    if name in ANSWERS:
        for status in [status for status in answers if status.isdigit()]:
            del answers[status]
        answers |= {status: _answer(kinds) for status, kinds in ANSWERS[name].items()}
    failed = {"content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    answers |= {"4XX": {"description": "What was sent cannot be done.", **failed}}
    answers |= {"5XX": {"description": "A fault of the service, or of what it asks.", **failed}}


def _answer(kinds: tuple[str, ...]) -> dict[str, Any]:
    told: dict[str, Any] = {"description": "Done."}
    return told | ({"content": {kind: {} for kind in kinds}} if kinds else {})
