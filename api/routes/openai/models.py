"""`/v1/models`: the base, the project's adapters, and the aliases that point at them."""

from typing import Any

from fastapi import APIRouter

from api.auth import Project
from api.services import Shared
from moatelier.settings import settings
from serving.auto import AUTO, no_adapters
from serving.targets import resolve
from store import adapters

router = APIRouter()
OWNER = "moatelier"


def _model(name: str, *, root: str, parent: str | None, created: int = 0) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": OWNER, "root": root, "parent": parent}


def _of(record: adapters.AdapterRecord, name: str) -> dict[str, Any]:
    created = int(record.created_at.timestamp())
    return _model(name, root=record.model_id, parent=record.base, created=created)


@router.get("/v1/models")
def list_models(project: Project, shared: Shared) -> dict[str, Any]:
    """All names a request may use as `model`; `root` is what the name stands for, `parent` its base."""
    base = settings().base
    data = [_model(base, root=base, parent=None)]
    if shared.auto.offered(project):
        data.append(_model(AUTO, root=AUTO, parent=base))
    for record in adapters.list_adapters(project):
        data += [_of(record, name) for name in (record.model_id, *record.aliases)]
    return {"object": "list", "data": data, "has_more": False}


@router.get("/v1/models/{model:path}")
def get_model(model: str, project: Project, shared: Shared) -> dict[str, Any]:
    """One model by its id, digest or alias; `auto` once an adapter has joined it."""
    if model == AUTO:
        if not shared.auto.offered(project):
            raise no_adapters()
        return _model(AUTO, root=AUTO, parent=settings().base)
    target = resolve((project, model))
    if target.digest is None:
        return _model(model, root=target.model, parent=None)
    return _of(adapters.get(project, model), model)
