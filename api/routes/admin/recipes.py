"""`/v1/moa`: the recipes of a project. A recipe is added as a draft; only a trial makes it live."""

from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request

from api import mixed
from api.auth import Caller, Project
from api.bodies import Body, unless_gone
from api.limits import METER
from api.pages import listing
from api.services import Shared
from moatelier.contracts import read_recipe
from moatelier.contracts.recipes import PREFIX
from moatelier.errors import InvalidRequest
from serving import mixtures
from store import recipes

router = APIRouter(prefix="/v1/moa")


def _json(stored: recipes.StoredRecipe) -> dict[str, Any]:
    body = stored.model_dump(mode="json", exclude={"project", "source", "sealed"})
    return {"id": PREFIX + stored.name, "object": "recipe", **body, "summary": stored.sealed.summary}


def _whole(stored: recipes.StoredRecipe) -> dict[str, Any]:
    return {
        **_json(stored),
        "yaml": stored.source,
        "sealed": stored.sealed.model_dump(mode="json", exclude_defaults=True),
    }


@router.get("")
def list_recipes(project: Project) -> dict[str, Any]:
    """The project's recipes with their states."""
    return listing([_json(stored) for stored in recipes.list_recipes(project)], has_more=False)


@router.post("")
def add(key: Caller, body: Body) -> dict[str, Any]:
    """Add a recipe, `{"yaml": "..."}`, or change one: then it is a draft again.

    Raises:
        InvalidRequest: It is no recipe, or asks itself, or names an adapter of another base.
        NotFound: It names an adapter, an upstream or a recipe that does not exist.
    """
    text = body.get("yaml")
    if not isinstance(text, str) or set(body) != {"yaml"}:
        raise InvalidRequest("The request holds no recipe.", where="yaml", remedy='Send {"yaml": "name: ..."}.')
    sealed = mixtures.seal(key.project, read_recipe(text))
    return _whole(recipes.put(key.project, text, sealed, actor=key.id))


@router.get("/{name}")
def show(name: str, project: Project) -> dict[str, Any]:
    """One recipe: as it was sent, and with digests for names."""
    return _whole(recipes.get(project, name))


@router.post("/{name}/disable")
def disable(name: str, key: Caller, body: Body) -> dict[str, Any]:
    """Stop a recipe from answering, `{"reason": "..."}`; only a new evaluation lets it again."""
    reason = body.get("reason") or "A person disabled it."
    if not isinstance(reason, str) or len(reason) > 1000:
        raise InvalidRequest("The reason is no text of at most 1000 characters.", where="reason", remedy="Shorten it.")
    return _json(recipes.disable(key.project, name, reason, actor=key.id))


@router.post("/{name}/try")
async def attempt(name: str, request: Request, project: Project, shared: Shared, body: Body) -> dict[str, Any]:
    """Ask a recipe in any state, `{"messages": [...], ...}`: the whole trace, with every proposal's text.

    Raises:
        NotFound: There is no such recipe, or something that it names is gone.
        InvalidRequest: There are no messages, or a field that a recipe cannot honour.
        UpstreamError: Nobody answered.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("The request has no messages.", where="messages", remedy="Send a list of messages.")
    fields = mixed.fields_of(body)
    mixture = await to_thread.run_sync(mixtures.load, (project, name))  # as it is now, not a second ago
    trace = await unless_gone(request, shared.answers.answer(mixture, messages, fields, likelihoods=True))
    if (meter := request.scope.get(METER)) is not None:
        meter.tell(trace.prompt_tokens + trace.completion_tokens)
    return {"object": "recipe.trace", **trace.model_dump(mode="json")}
