"""`/v1/moa/{name}/evaluations` and `/candidates`: what takes long about a recipe, as tasks that can be followed."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field

from api.auth import Project
from graphs import recipes
from moatelier.contracts.base import Contract
from store import tasks

router = APIRouter(prefix="/v1/moa")


class Asked(Contract):
    """Whose rows, and how many of them at most."""

    datasets: tuple[str, ...] = ()
    """Tasks, adapters or datasets; default: those of the recipe's proposers."""
    rows: int | None = Field(default=None, ge=1)


class AskedOn(Asked):
    """Locked rows decide and cost a look; select rows only compare."""

    split: Literal["select", "test"] = "test"


def _json(task: tasks.Task) -> dict[str, Any]:
    return {"object": "task", **task.model_dump(mode="json", exclude={"project"})}


@router.post("/{name}/evaluations", status_code=202)
def evaluate(name: str, project: Project, body: AskedOn) -> dict[str, Any]:
    """Start an evaluation; follow it by `/tasks/{id}/events`.

    Raises:
        NotFound: There is no such recipe, task, adapter or dataset.
        InvalidRequest: The recipe names no adapter, and no dataset is named.
    """
    return _json(recipes.evaluate(project, name, named=body.datasets, split=body.split, rows=body.rows))


@router.post("/{name}/candidates", status_code=202)
def make_candidates(name: str, project: Project, body: Asked) -> dict[str, Any]:
    """Start making the rows for the recipe's aggregator; the task's result names the file. Raises as above."""
    return _json(recipes.make_candidates(project, name, named=body.datasets, rows=body.rows))
