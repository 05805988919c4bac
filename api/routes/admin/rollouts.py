"""`/v1/rollouts`: a challenger is tried on an alias; `/v1/alerts`: what somebody should know."""

from typing import Any

from fastapi import APIRouter

from api.auth import Caller, Project
from api.bodies import STRICT
from api.pages import listing
from moatelier.contracts import RolloutPlan
from moatelier.contracts.base import Contract
from store import alerts, rollouts

router = APIRouter(dependencies=[STRICT])


class Begun(Contract):
    """What is tried, and how."""

    alias: str
    challenger: str
    """Digest, model id or alias."""
    plan: RolloutPlan = RolloutPlan()


def _json(rollout: rollouts.Rollout) -> dict[str, Any]:
    return {"object": "rollout", **rollout.model_dump(mode="json", exclude={"project", "fence"})}


@router.post("/v1/rollouts", status_code=201)
def begin(key: Caller, body: Begun) -> dict[str, Any]:
    """Try a challenger on an alias.

    Raises:
        NotFound: There is no such alias or adapter.
        InvalidRequest: The challenger is the champion, or answers other questions.
        Conflict: The alias has a rollout under way.
    """
    return _json(rollouts.begin(key.project, body.alias, body.challenger, body.plan, actor=key.id))


@router.get("/v1/rollouts")
def list_rollouts(project: Project) -> dict[str, Any]:
    """The project's rollouts, newest first."""
    return listing([_json(each) for each in rollouts.list_rollouts(project)], has_more=False)


@router.get("/v1/rollouts/{rollout_id}")
def get_rollout(rollout_id: str, project: Project) -> dict[str, Any]:
    """A rollout by its id, or the newest one of an alias, with what is known so far. Raises NotFound."""
    return _json(rollouts.get(project, rollout_id))


@router.post("/v1/rollouts/{rollout_id}/stop")
def stop(rollout_id: str, key: Caller) -> dict[str, Any]:
    """End a rollout; the champion stays. One that has ended stays as it is. Raises NotFound."""
    found = rollouts.get(key.project, rollout_id)
    return _json(rollouts.move(key.project, found.id, "stop", f"Stopped by {key.id}.", actor=key.id))


@router.post("/v1/rollouts/{rollout_id}/promote")
def promote(rollout_id: str, key: Caller) -> dict[str, Any]:
    """Give the challenger the alias now, whatever has been shown. Raises NotFound, and Conflict if the alias moved."""
    found = rollouts.get(key.project, rollout_id)
    return _json(rollouts.move(key.project, found.id, "promote", f"Promoted by {key.id}.", actor=key.id))


@router.post("/v1/rollouts/{rollout_id}/revert")
def revert(rollout_id: str, key: Caller) -> dict[str, Any]:
    """Give the alias back to the champion that a promotion replaced. Raises NotFound and Conflict."""
    return _json(rollouts.revert(key.project, rollout_id, actor=key.id))


def _alert(alert: alerts.Alert) -> dict[str, Any]:
    return {"object": "alert", **alert.model_dump(mode="json", exclude={"project"})}


@router.get("/v1/alerts")
def list_alerts(project: Project, unseen: bool = False) -> dict[str, Any]:
    """The project's alerts, newest first; with `unseen` those that nobody has acknowledged."""
    return listing([_alert(each) for each in alerts.list_alerts(project, unseen=unseen)], has_more=False)


@router.post("/v1/alerts/{alert_id}/seen")
def seen(alert_id: str, project: Project) -> dict[str, Any]:
    """Acknowledge an alert. Raises NotFound."""
    return _alert(alerts.acknowledge(project, alert_id))
