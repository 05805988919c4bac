"""`/v1/feedback`: what a person thought of an answer, joined by the completion's id. `auto` and recipes heed it."""

from typing import Any

from anyio import to_thread
from fastapi import APIRouter

from api import metrics
from api.auth import Caller
from api.services import Services, Shared
from graphs.feedback import heed_quietly
from moatelier.contracts import Feedback
from moatelier.errors import MoatelierError, NotFound
from serving.bandit import reward
from store import feedback
from store.keys import Key

router = APIRouter()


@router.post("/v1/feedback")
async def give(key: Caller, shared: Shared, body: Feedback) -> dict[str, Any]:
    """Keep feedback; the same key's later word on a completion replaces the earlier one.

    Raises:
        NotFound: The project has no such completion.
        InvalidRequest: It says nothing.
        RateLimited: The key has judged as many answers within a day as it may.
    """
    try:
        kept = await _kept(key, shared, body)
    except MoatelierError as error:
        metrics.FEEDBACK_REFUSED.labels(error.code).inc()
        raise
    metrics.feedback(body)
    await to_thread.run_sync(heed_quietly, key.project, kept.requested)
    return {"object": "feedback", **kept.model_dump(mode="json", exclude={"project", "key"})}


async def _kept(key: Key, shared: Services, body: Feedback) -> feedback.StoredFeedback:
    try:
        return await to_thread.run_sync(feedback.put, key.project, key.id, body, reward(body))
    except NotFound:
        await shared.decisions.flush()  # routes are written behind the requests: this one may be on its way
        return await to_thread.run_sync(feedback.put, key.project, key.id, body, reward(body))
