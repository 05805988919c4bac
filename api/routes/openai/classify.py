"""`/v1/classify`: labels of texts, pictures or recordings with their probabilities, by an adapter tuned on them."""

from typing import Any

from fastapi import APIRouter, Request

from api import observing
from api.auth import Project
from api.bodies import Body, unless_gone
from api.services import Shared
from moatelier.errors import InvalidRequest
from moatelier.ids import new_id
from serving.targets import Target

router = APIRouter()


@router.post("/v1/classify")
async def classify(request: Request, project: Project, shared: Shared, body: Body) -> dict[str, Any]:
    """Labels for each input, best first."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("The request names no model.", where="model", remedy="GET /v1/models lists them.")
    asking = {"user": body.get("user"), "messages": [{"role": "user", "content": body.get("input")}]}
    asked, target = observing.drawn(shared, project, asking, await shared.targets.get((project, model)))

    async def classified(by: Target) -> dict[str, Any]:
        async def call() -> dict[str, Any]:
            # Who takes turns with whom is ours to say, as for chat.
            return await shared.backend.upstream.classify({**body, "model": by.served, "user": project})

        return await unless_gone(request, shared.backend.with_adapter(by, call))

    found, target, watch = await observing.answered(asked, target, classified)
    completion = new_id("classify")
    first = next((each.get("label") for each in found.get("data") or ()), None)
    said = {"message": {"content": first}, "finish_reason": "stop"}
    watch.take({"id": completion, "choices": [said], "usage": found.get("usage")})
    watch.end()
    shared.decisions.note(project, target.decision(completion))
    return found | {"id": completion, "model": target.model}
