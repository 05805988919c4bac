"""`/v1/admin`: keys of a project, projects, and the audit log.

An admin's key manages its own project. Those of the service's own project (MOATELIER_PROJECT) also make projects and
hand out a first key to each; they see nothing else of them.
"""

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints

from api.auth import Caller
from api.pages import listing
from api.services import Shared
from moatelier.contracts import now
from moatelier.contracts.base import Contract
from moatelier.errors import Forbidden
from moatelier.scopes import SCOPES, Scope
from moatelier.settings import settings
from store import audit, keys, projects

router = APIRouter(prefix="/v1/admin")
Name = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,80}$")]
PerMinute = Annotated[int | None, Field(default=None, ge=0, le=1_000_000_000)]
Days = Annotated[float | None, Field(default=None, gt=0, le=36_500)]


class WantedKey(Contract):
    """A key to be made."""

    name: Name
    scopes: tuple[Scope, ...] = SCOPES
    expires_days: Days
    requests_per_minute: PerMinute
    tokens_per_minute: PerMinute
    project: str | None = None
    """Another project than the caller's own: only for admins of the service's own project."""


class Rotation(Contract):
    """How long the old secret is good besides the new one."""

    grace_s: float = Field(default=0.0, ge=0, le=30 * 86_400)


class WantedProject(Contract):
    """A project to be made; quotas that are left out are those of the settings."""

    id: str
    storage_gb: float | None = Field(default=None, ge=0, le=1_000_000)
    training_hours: float | None = Field(default=None, ge=0, le=1_000_000)


def _key(key: keys.Key, secret: str | None = None) -> dict[str, Any]:
    told = {"object": "key", **key.model_dump(mode="json"), "live": key.live}
    return told if secret is None else {**told, "secret": secret}


def _project(project: projects.Project) -> dict[str, Any]:
    return {"object": "project", **project.model_dump(mode="json")}


def _need_operator(key: keys.Key) -> None:
    if key.project != settings().project:
        remedy = f"Use an admin's key of the project {settings().project}."
        raise Forbidden("Only the service's own project makes projects and keys of others.", remedy=remedy)


def _until(days: float | None) -> datetime | None:
    return None if days is None else now() + timedelta(days=days)


@router.get("/keys")
def list_keys(key: Caller) -> dict[str, Any]:
    """The project's keys, without their secrets, revoked ones included."""
    return listing([_key(found) for found in keys.list_keys(key.project)], has_more=False)


@router.post("/keys")
def create_key(key: Caller, body: WantedKey) -> dict[str, Any]:
    """Make a key; `secret` is told this once.

    Raises:
        Forbidden: Of another project, by whom it is not for.
        NotFound: There is no such project.
    """
    project = body.project or key.project
    if project != key.project:
        _need_operator(key)
        projects.get(project)
    limits = {"requests_per_minute": body.requests_per_minute, "tokens_per_minute": body.tokens_per_minute}
    scopes, until = body.scopes, _until(body.expires_days)
    secret = keys.create(project, body.name, scopes=scopes, expires_at=until, actor=key.id, **limits)
    return _key(keys.made(secret), secret)


@router.post("/keys/{key_id}/rotate")
def rotate_key(key_id: str, key: Caller, shared: Shared, body: Rotation) -> dict[str, Any]:
    """Give a key a new secret, told this once; the old one ends at once, or after `grace_s`. Raises as the store."""
    secret = keys.rotate(key.project, key_id, grace_s=body.grace_s, actor=key.id)
    shared.callers.keys.forget()
    return _key(keys.made(secret), secret)


@router.delete("/keys/{key_id}")
def revoke_key(key_id: str, key: Caller, shared: Shared) -> dict[str, Any]:
    """End a key, and streams that are open by it. Raises NotFound."""
    revoked = keys.revoke(key.project, key_id, actor=key.id)
    shared.callers.keys.forget()
    return _key(revoked)


@router.get("/projects")
def list_projects(key: Caller) -> dict[str, Any]:
    """All projects for the service's own, for others theirs."""
    found = projects.list_projects() if key.project == settings().project else [projects.get(key.project)]
    return listing([_project(project) for project in found], has_more=False)


@router.post("/projects")
def create_project(key: Caller, body: WantedProject) -> dict[str, Any]:
    """Make a project, with an admin's key for it whose secret is told this once.

    Raises:
        Forbidden: The key is another project's.
        InvalidRequest, Conflict: The id is none, or is taken.
    """
    _need_operator(key)
    storage = None if body.storage_gb is None else round(projects.GB * body.storage_gb)
    training = None if body.training_hours is None else round(projects.HOUR_S * body.training_hours)
    made = projects.create(body.id, storage_bytes=storage, training_seconds=training, actor=key.id)
    secret = keys.create(made.id, "admin", actor=key.id)
    return {**_project(made), "key": _key(keys.made(secret), secret)}


@router.get("/audit")
def read_audit(
    key: Caller, after: Annotated[int, Query(ge=0, lt=2**63)] = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 500
) -> dict[str, Any]:
    """The project's lines of the audit log after an id, oldest first, with the hashes that chain them."""
    found = audit.read(key.project, after=after, limit=limit + 1)
    lines = [line.model_dump(mode="json", exclude={"project"}) for line in found[:limit]]
    return listing(lines, has_more=len(found) > limit)
