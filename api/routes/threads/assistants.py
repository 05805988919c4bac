"""`/assistants`: there is one, the conversation. `/store` is refused: what is remembered here is tasks and threads."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from api.auth import Project
from api.bodies import Body
from api.routes.threads.requests import ROLES, check_assistant, read_metadata, read_number
from api.routes.threads.shapes import ASSISTANT, ASSISTANTS, selected
from graphs import conversation
from moatelier.errors import InvalidRequest

router = APIRouter()
SINCE = "2026-01-01T00:00:00+00:00"
"""It was not made by anybody: it came with the service."""
INPUT: Mapping[str, Any] = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["content"],
                "properties": {"role": {"enum": sorted(ROLES)}, "content": {"type": ["string", "array"]}},
            },
        },
        "files": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"train": {"type": "string"}, "test": {"type": "string"}},
        },
    },
}
NOTHING: Mapping[str, Any] = {"type": "object", "properties": {}}


def _version() -> dict[str, Any]:
    return {
        "assistant_id": ASSISTANT,
        "graph_id": ASSISTANT,
        "config": {},
        "context": {},
        "created_at": SINCE,
        "metadata": {"created_by": "system"},
        "version": 1,
        "name": "moatelier",
        "description": "Makes a tested adapter of what you say and a file.",
    }


def _assistant() -> dict[str, Any]:
    return {**_version(), "updated_at": SINCE}


def _found(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The one assistant, if it is wanted."""
    known, metadata = _assistant(), read_metadata(body)
    fits = metadata.items() <= known["metadata"].items() and body.get("graph_id") in (None, *ASSISTANTS)
    named = body.get("name")
    return [known] if fits and (not isinstance(named, str) or named.lower() in known["name"]) else []


@router.post("/assistants/search")
def search(project: Project, body: Body) -> list[dict[str, Any]]:
    """The assistants that match."""
    limit, offset = read_number(body, "limit", 10, 1000), read_number(body, "offset", 0, 1_000_000_000)
    return [selected(found, body.get("select")) for found in _found(body)[offset : offset + limit]]


@router.post("/assistants/count")
def count(project: Project, body: Body) -> int:
    """How many match."""
    return len(_found(body))


@router.get("/assistants/{assistant_id}")
def get_assistant(assistant_id: str, project: Project) -> dict[str, Any]:
    """One assistant."""
    check_assistant({"assistant_id": assistant_id})
    return _assistant()


@router.get("/assistants/{assistant_id}/graph")
def get_graph(assistant_id: str, project: Project) -> dict[str, Any]:
    """Its graph, to be drawn."""
    check_assistant({"assistant_id": assistant_id})
    return conversation.drawing()


@router.get("/assistants/{assistant_id}/schemas")
def get_schemas(assistant_id: str, project: Project) -> dict[str, Any]:
    """What a run takes, and what a thread's values are."""
    check_assistant({"assistant_id": assistant_id})
    state = conversation.schema()
    return {
        "graph_id": ASSISTANT,
        "input_schema": INPUT,
        "output_schema": state,
        "state_schema": state,
        "config_schema": NOTHING,
        "context_schema": NOTHING,
    }


@router.get("/assistants/{assistant_id}/subgraphs")
@router.get("/assistants/{assistant_id}/subgraphs/{namespace}")
def get_subgraphs(assistant_id: str, project: Project) -> dict[str, Any]:
    """None: a task is a thread of its own, not a part of the conversation's graph."""
    check_assistant({"assistant_id": assistant_id})
    return {}


@router.post("/assistants/{assistant_id}/versions")
def get_versions(assistant_id: str, project: Project, body: Body) -> list[dict[str, Any]]:
    """Its one version."""
    check_assistant({"assistant_id": assistant_id})
    limit, offset = read_number(body, "limit", 10, 1000), read_number(body, "offset", 0, 1_000_000_000)
    return [_version()][offset : offset + limit]


@router.post("/assistants/{assistant_id}/latest")
def set_latest(assistant_id: str, project: Project, body: Body) -> dict[str, Any]:
    """Its one version is the latest already.

    Raises:
        InvalidRequest: It has no other version.
    """
    check_assistant({"assistant_id": assistant_id})
    if body.get("version") != 1:
        raise InvalidRequest("The assistant has version 1 alone.", where="version", remedy="Send 1.")
    return _assistant()


@router.post("/assistants")
@router.patch("/assistants/{assistant_id}")
@router.delete("/assistants/{assistant_id}")
def refuse(project: Project) -> dict[str, Any]:
    """Refused: assistants are not made, changed or deleted.

    Raises:
        InvalidRequest: Always.
    """
    remedy = f"Use {ASSISTANT!r}; what differs from task to task is said on a thread."
    raise InvalidRequest("There is one assistant, and it stays as it is.", where="assistant_id", remedy=remedy)


@router.get("/store/items")
@router.put("/store/items")
@router.delete("/store/items")
@router.post("/store/items/search")
@router.post("/store/namespaces")
def refuse_items(project: Project) -> dict[str, Any]:
    """Refused: there is no store of items.

    Raises:
        InvalidRequest: Always.
    """
    remedy = "Keep notes in a thread's metadata, and data as files (/v1/files)."
    raise InvalidRequest("This service keeps no items for clients.", where="namespace", remedy=remedy)
