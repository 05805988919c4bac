"""`/v1/monitors`: what was measured of each model's answers, and what stands out."""

from typing import Any

from fastapi import APIRouter

from api.auth import Caller, Project
from api.pages import listing
from store import monitors, observations

router = APIRouter()


def _json(monitor: monitors.Monitor) -> dict[str, Any]:
    told = monitor.model_dump(mode="json", include={"model", "chosen", "updated_at"})
    told |= {"learning": monitor.reference is None, "found": monitor.state.get("found", {})}
    numbers = observations.summary(monitor.project, monitor.model, monitor.chosen)
    return {"id": f"{monitor.model}@{monitor.chosen}", "object": "monitor", **told, "numbers": numbers}


@router.get("/v1/monitors")
def list_monitors(project: Project) -> dict[str, Any]:
    """Each model that is asked, with its newest numbers and the last look at each monitor."""
    return listing([_json(each) for each in monitors.list_monitors(project)], has_more=False)


@router.post("/v1/monitors/{model:path}/reset")
def reset(model: str, key: Caller) -> dict[str, Any]:
    """Take what comes from now on for what is usual. Raises NotFound."""
    return {"object": "monitor.reset", "model": model, "count": monitors.reset(key.project, model, actor=key.id)}
