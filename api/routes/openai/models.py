"""`/v1/models`: the base, the project's adapters, the aliases that point at them, and recipes that are live."""

from typing import Any

from fastapi import APIRouter

from api.auth import Project
from api.routes.openai.conversing import NAME as CONVERSATION
from api.services import Shared
from moatelier.contracts.recipes import PREFIX
from moatelier.errors import InvalidRequest
from moatelier.settings import settings
from serving import mixtures
from serving.auto import AUTO
from serving.targets import resolve
from store import adapters, recipes

router = APIRouter()
OWNER = "moatelier"


def _model(name: str, *, root: str, parent: str | None, created: int = 0) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": OWNER, "root": root, "parent": parent}


def _of(record: adapters.AdapterRecord, name: str) -> dict[str, Any]:
    created = int(record.created_at.timestamp())
    return _model(name, root=record.model_id, parent=record.base, created=created)


def _mixture(stored: recipes.StoredRecipe) -> dict[str, Any]:
    name = PREFIX + stored.name
    return _model(name, root=name, parent=settings().base, created=int(stored.created_at.timestamp()))


@router.get("/v1/models")
def list_models(project: Project, shared: Shared) -> dict[str, Any]:
    """All names a request may use as `model`; `root` is what the name stands for, `parent` its base."""
    base = settings().base
    data = [_model(each, root=each, parent=None) for each in settings().text_bases]
    if shared.auto.offered(project):
        data.append(_model(AUTO, root=AUTO, parent=base))
    for stored in recipes.list_recipes(project):
        if stored.state == "live":
            data.append(_mixture(stored))
    for record in adapters.list_adapters(project):
        data += [_of(record, name) for name in (record.model_id, *record.aliases)]
    data.append(_model(CONVERSATION, root=CONVERSATION, parent=None))
    return {"object": "list", "data": data, "has_more": False}


@router.get("/v1/models/{model:path}")
def get_model(model: str, project: Project, shared: Shared) -> dict[str, Any]:
    """One model by its id, digest or alias; the conversation; `auto` once an adapter has joined it; a live recipe."""
    if model == CONVERSATION:
        return _model(CONVERSATION, root=CONVERSATION, parent=None)
    if model == AUTO:
        shared.auto.check(project)
        return _model(AUTO, root=AUTO, parent=settings().base)
    if model.startswith(PREFIX):
        mixture = mixtures.load((project, model))
        mixture.need_live()
        return _mixture(mixture.stored)
    target = resolve((project, model))
    if target.digest is None:
        return _model(model, root=target.model, parent=None)
    return _of(adapters.get(project, model), model)


@router.delete("/v1/models/{model:path}")
def delete_model(model: str, project: Project) -> dict[str, Any]:
    """Refused: an adapter is sealed, and the signed records about it stay true of something that is there.

    Raises:
        NotFound: The project knows no such model.
        InvalidRequest: In every other case.
    """
    if model not in (AUTO, CONVERSATION) and not model.startswith(PREFIX):
        resolve((project, model))
    remedy = "Point its alias at another adapter instead; a recipe is disabled at /v1/moa/{name}/disable."
    raise InvalidRequest("Models are not deleted.", where=model, remedy=remedy)
