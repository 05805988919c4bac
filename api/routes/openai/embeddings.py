"""`/v1/embeddings` of texts and pictures: passed on to the engine, which checks the body."""

from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request

from api.auth import Project
from api.bodies import Body, unless_gone
from api.services import Shared
from moatelier.errors import NotFound
from moatelier.settings import settings
from modalities import catalogue

router = APIRouter()


def _embeds(model: str) -> bool:
    try:
        return catalogue.get(model).kind == "embedding"
    except NotFound:
        return False


@router.post("/v1/embeddings")
async def embed(request: Request, project: Project, shared: Shared, body: Body) -> dict[str, Any]:
    """Vectors of texts by a pulled embedding model, or of pictures by a vision base or one of its adapters.

    By an adapter that finds pictures by words both are taken, and lie in one space.
    """
    model = str(body.get("model"))
    try:
        target = await shared.targets.get((project, model))
    except NotFound:
        # Only an embedding model: by other names that the engine knows, other projects' adapters could be asked.
        if model != settings().embedding and not await to_thread.run_sync(_embeds, model):
            raise
        return await unless_gone(request, shared.backend.upstream.embed(body))

    async def call() -> dict[str, Any]:
        return await shared.backend.upstream.embed({**body, "model": target.served})

    return await unless_gone(request, shared.backend.with_adapter(target, call)) | {"model": target.model}
