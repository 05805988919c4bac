"""`/v1/evals`: what is judged and by which criteria, its runs, and what each run found item by item."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from api.auth import Project
from api.bodies import STRICT
from api.eval_requests import EvalChange, EvalRequest, RunRequest, UploadedRows
from api.eval_shapes import eval_json, item_json, item_number, run_json
from api.pages import listing
from graphs import eval_runs
from moatelier.contracts.recipes import PREFIX
from moatelier.errors import InvalidRequest, NotFound
from moatelier.ids import new_id
from moatelier.settings import settings
from serving.auto import AUTO
from serving.targets import resolve
from store import datasets, stored_evals

router = APIRouter(prefix="/v1/evals", dependencies=[STRICT])
Limit = Annotated[int, Query(ge=1, le=1000)]
Order = Literal["asc", "desc"]


@router.post("", status_code=201)
def create(project: Project, body: EvalRequest) -> dict[str, Any]:
    """Keep an eval."""
    made = stored_evals.create(
        project,
        id=new_id("eval"),
        name=body.name or "Untitled",
        config=body.data_source_config.model_dump(mode="json"),
        criteria=[criterion.model_dump(mode="json", exclude_none=True) for criterion in body.testing_criteria],
        metadata=body.metadata or {},
    )
    return eval_json(made)


@router.get("")
def list_evals(
    project: Project,
    after: str | None = None,
    limit: Limit = 20,
    order: Order = "asc",
    order_by: Literal["created_at", "updated_at"] = "created_at",
) -> dict[str, Any]:
    """The project's evals."""
    found = stored_evals.list_evals(project, after=after, limit=limit + 1, order=order, by=order_by)
    return listing([eval_json(each) for each in found[:limit]], has_more=len(found) > limit)


@router.get("/{eval_id}")
def get_eval(eval_id: str, project: Project) -> dict[str, Any]:
    """One eval."""
    return eval_json(stored_evals.get(project, eval_id))


@router.post("/{eval_id}")
def update(eval_id: str, project: Project, body: EvalChange) -> dict[str, Any]:
    """Give it another name or other metadata."""
    return eval_json(stored_evals.change(project, eval_id, name=body.name, metadata=body.metadata))


@router.delete("/{eval_id}")
def delete(eval_id: str, project: Project) -> dict[str, Any]:
    """Delete an eval with its runs. Raises Conflict, status 400, while one goes on."""
    stored_evals.delete(project, eval_id)
    return {"object": "eval.deleted", "deleted": True, "eval_id": eval_id}


# ---------------------------------------------------------------- runs


@router.post("/{eval_id}/runs", status_code=201)
def create_run(eval_id: str, request: Request, project: Project, body: RunRequest) -> dict[str, Any]:
    """Start a run; it goes on whatever becomes of this process.

    Raises:
        NotFound: There is no such eval.
        InvalidRequest: It names a file or a model that is not there.
    """
    stored_evals.get(project, eval_id)
    source = body.data_source.model_dump(mode="json", exclude_none=True)
    if isinstance(body.data_source.source, UploadedRows):
        _need_file(project, body.data_source.source.id)
    if source.get("model"):
        _need_model(project, source["model"])
    params = source.get("sampling_params", {})
    if form := params.pop("text", {}).get("format"):  # as `responses` says what `completions` says
        params.setdefault("response_format", form)
    run = eval_runs.start(project, eval_id, name=body.name or "Untitled", source=source, metadata=body.metadata or {})
    return run_json(run, str(request.base_url))


def _need_file(project: str, id: str) -> None:
    try:
        datasets.get_file(project, id)
    except NotFound as error:
        raise InvalidRequest(f"There is no file {id}.", where="data_source.source.id", remedy=error.remedy) from error


def _need_model(project: str, model: str) -> None:
    """Of an adapter or a base; recipes, `auto` and upstreams tell when they are asked."""
    if model == AUTO or model.startswith(PREFIX) or model.partition("/")[0] in settings().upstreams:
        return
    try:
        resolve((project, model))
    except NotFound as error:
        raise InvalidRequest(error.what, where="data_source.model", remedy=error.remedy) from error


@router.get("/{eval_id}/runs")
def list_runs(
    eval_id: str,
    request: Request,
    project: Project,
    after: str | None = None,
    limit: Limit = 20,
    order: Order = "asc",
    status: stored_evals.RunStatus | None = None,
) -> dict[str, Any]:
    """An eval's runs."""
    stored_evals.get(project, eval_id)
    found = stored_evals.list_runs(project, eval_id, after=after, limit=limit + 1, order=order, status=status)
    shown = [run_json(each, str(request.base_url)) for each in found[:limit]]
    return listing(shown, has_more=len(found) > limit)


@router.get("/{eval_id}/runs/{run_id}")
def get_run(eval_id: str, run_id: str, request: Request, project: Project) -> dict[str, Any]:
    """One run."""
    return run_json(stored_evals.get_run(project, eval_id, run_id), str(request.base_url))


@router.post("/{eval_id}/runs/{run_id}")
@router.post("/{eval_id}/runs/{run_id}/cancel")
def cancel(eval_id: str, run_id: str, request: Request, project: Project) -> dict[str, Any]:
    """End a run; by the API's own path, or by that of some clients. Raises Conflict, status 400, when it has ended."""
    return run_json(eval_runs.cancel(project, eval_id, run_id), str(request.base_url))


@router.delete("/{eval_id}/runs/{run_id}")
def delete_run(eval_id: str, run_id: str, project: Project) -> dict[str, Any]:
    """Delete a run with what it found. Raises Conflict, status 400, while it goes on."""
    stored_evals.delete_run(project, eval_id, run_id)
    return {"object": "eval.run.deleted", "deleted": True, "run_id": run_id}


@router.get("/{eval_id}/runs/{run_id}/output_items")
def list_items(
    eval_id: str,
    run_id: str,
    project: Project,
    after: str | None = None,
    limit: Limit = 20,
    order: Order = "asc",
    status: Literal["pass", "fail"] | None = None,
) -> dict[str, Any]:
    """What a run found, item by item."""
    run = stored_evals.get_run(project, eval_id, run_id)
    passed = None if status is None else status == "pass"
    number = None if after is None else _number(run, after)
    found = stored_evals.list_items(project, run.id, after=number, limit=limit + 1, order=order, passed=passed)
    return listing([item_json(run, item) for item in found[:limit]], has_more=len(found) > limit)


def _number(run: stored_evals.EvalRun, id: str) -> int:
    number = item_number(run.id, id)
    if number is None:
        raise NotFound("This run has no such item.", where=id, remedy="List its items.")
    return number


@router.get("/{eval_id}/runs/{run_id}/output_items/{item_id}")
def get_item(eval_id: str, run_id: str, item_id: str, project: Project) -> dict[str, Any]:
    """One item."""
    run = stored_evals.get_run(project, eval_id, run_id)
    return item_json(run, stored_evals.get_item(project, run.id, _number(run, item_id)))
