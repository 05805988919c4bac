"""`/v1/lessons`: what feedback teaches waits for a person; `/v1/triggers` and `/v1/retrains`: when it is trained on."""

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from api.auth import Caller, Project
from api.bodies import STRICT
from api.pages import listing
from moatelier.contracts import RetrainPlan
from moatelier.contracts.base import Contract
from moatelier.errors import InvalidRequest
from store import lessons, retrains

router = APIRouter(dependencies=[STRICT])


class Judged(Contract):
    """Which lessons are meant: some by the ids of their answers, or all of an alias that are pending."""

    completions: tuple[str, ...] = Field(default=(), max_length=10_000)
    alias: str | None = None


class TriggerBody(Contract):
    """When an alias's model is trained again."""

    plan: RetrainPlan = RetrainPlan()
    enabled: bool = True


class Wanted(Contract):
    """Whose model is to be trained again now."""

    alias: str


@router.get("/v1/lessons")
def list_lessons(
    project: Project, alias: str | None = None, status: str | None = None, limit: int = 100
) -> dict[str, Any]:
    """The project's lessons, newest first, redacted; of an alias with how many there are of each status."""
    wanted = lessons.need_status(status)
    found = lessons.list_lessons(project, alias=alias, status=wanted, limit=max(1, min(limit, 1000)))
    return listing([_lesson(each) for each in found], has_more=False) | {
        "counts": lessons.counts(project, alias) if alias is not None else None
    }


def _lesson(lesson: lessons.Lesson) -> dict[str, Any]:
    told = lesson.model_dump(mode="json", exclude={"project", "voice"})
    return {"id": lesson.completion, "object": "lesson", **told}


@router.post("/v1/lessons/approve")
def approve(key: Caller, body: Judged) -> dict[str, Any]:
    """Approve lessons, all or none. Raises NotFound, and Conflict for one that cannot be."""
    return _judged(key, body, "approved")


@router.post("/v1/lessons/reject")
def reject(key: Caller, body: Judged) -> dict[str, Any]:
    """Reject lessons, all or none. Raises NotFound, and Conflict for one that was used."""
    return _judged(key, body, "rejected")


def _judged(key: Caller, body: Judged, status: Any) -> dict[str, Any]:
    if bool(body.completions) == (body.alias is not None):
        raise InvalidRequest("Name completions, or an alias.", where="completions", remedy="Send one of them.")
    if body.alias is not None:
        count = lessons.judge_pending(key.project, body.alias, status, actor=key.id)
    else:
        count = lessons.judge(key.project, body.completions, status, actor=key.id)
    return {"object": "lessons.judged", "status": status, "count": count}


def _trigger(trigger: retrains.Trigger) -> dict[str, Any]:
    return {"id": trigger.alias, "object": "trigger", **trigger.model_dump(mode="json", exclude={"project"})}


def _retrain(retrain: retrains.Retrain) -> dict[str, Any]:
    return {"object": "retrain", **retrain.model_dump(mode="json", exclude={"project"})}


@router.get("/v1/triggers")
def list_triggers(project: Project) -> dict[str, Any]:
    """The project's triggers, by alias."""
    return listing([_trigger(each) for each in retrains.list_triggers(project)], has_more=False)


@router.put("/v1/triggers/{alias}")
def put_trigger(alias: str, key: Caller, body: TriggerBody) -> dict[str, Any]:
    """Write down when an alias's model is trained again. Raises NotFound, and InvalidRequest."""
    return _trigger(retrains.put_trigger(key.project, alias, body.plan, actor=key.id, enabled=body.enabled))


@router.get("/v1/triggers/{alias}")
def get_trigger(alias: str, project: Project) -> dict[str, Any]:
    """The trigger of an alias. Raises NotFound."""
    return _trigger(retrains.get_trigger(project, alias))


@router.delete("/v1/triggers/{alias}")
def delete_trigger(alias: str, key: Caller) -> dict[str, Any]:
    """Begin nothing more by itself. Raises NotFound."""
    retrains.delete_trigger(key.project, alias, actor=key.id)
    return {"object": "trigger", "alias": alias, "deleted": True}


@router.post("/v1/retrains", status_code=202)
def begin(key: Caller, body: Wanted) -> dict[str, Any]:
    """Train an alias's model again now; its worker starts the task. Raises NotFound, and Conflict if it cannot be."""
    fired = retrains.fire(key.project, body.alias, by=key.id)
    assert fired is not None, "a person is told why not by an error"
    return _retrain(fired)


@router.get("/v1/retrains")
def list_retrains(project: Project, alias: str | None = None) -> dict[str, Any]:
    """The project's retrains, newest first."""
    return listing([_retrain(each) for each in retrains.list_retrains(project, alias)], has_more=False)


@router.get("/v1/retrains/{retrain_id}")
def get_retrain(retrain_id: str, project: Project) -> dict[str, Any]:
    """One retrain, with its task. Raises NotFound."""
    return _retrain(retrains.get(project, retrain_id))
