"""`/v1/embeddings`: passed on to the engine, which checks the body."""

from typing import Any

from fastapi import APIRouter, Request

from api.auth import Project
from api.bodies import Body, unless_gone
from api.services import Shared

router = APIRouter()


@router.post("/v1/embeddings")
async def embed(request: Request, project: Project, shared: Shared, body: Body) -> dict[str, Any]:
    """Vectors of texts by a pulled embedding model."""
    return await unless_gone(request, shared.backend.upstream.embed(body))
