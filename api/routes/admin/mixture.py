"""`/v1/moa/{name}`: what takes long about a recipe, as tasks (`/evaluations`, `/candidates`), and its `/decision`."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field

from api.auth import Project
from graphs import recipes
from moatelier.contracts.base import Contract
from moatelier.errors import NotFound
from store import recipes as kept
from store import records, tasks

router = APIRouter(prefix="/v1/moa")


class Asked(Contract):
    """Whose rows, and how many of them at most."""

    datasets: tuple[str, ...] = ()
    """Tasks, adapters or datasets; default: those of the recipe's proposers."""
    rows: int | None = Field(default=None, ge=1, le=1_000_000)


class AskedOn(Asked):
    """Locked rows decide and cost a look; select rows only compare."""

    exam: str | None = Field(default=None, min_length=1)
    """Id of an uploaded file of questions to be asked instead of any dataset's."""
    split: Literal["select", "test"] = "test"


def _json(task: tasks.Task) -> dict[str, Any]:
    return {"object": "task", **task.model_dump(mode="json", exclude={"project"})}


@router.post("/{name}/evaluations", status_code=202)
def evaluate(name: str, project: Project, body: AskedOn) -> dict[str, Any]:
    """Start an evaluation; follow it by `/tasks/{id}/events`.

    Raises:
        NotFound: There is no such recipe, task, adapter, dataset or file.
        InvalidRequest: The recipe names no adapter, and neither dataset nor exam is named, or both are.
    """
    task = recipes.evaluate(project, name, named=body.datasets, exam=body.exam, split=body.split, rows=body.rows)
    return _json(task)


@router.post("/{name}/candidates", status_code=202)
def make_candidates(name: str, project: Project, body: Asked) -> dict[str, Any]:
    """Start making the rows for the recipe's aggregator; the task's result names the file. Raises as above."""
    return _json(recipes.make_candidates(project, name, named=body.datasets, rows=body.rows))


@router.get("/{name}/decision")
def decision(name: str, project: Project) -> dict[str, Any]:
    """The signed decision that the recipe's state rests on, with its table.

    Raises:
        NotFound: There is no such recipe, or it has not been evaluated as it is now.
        IntegrityError: The record was changed.
    """
    recipe = kept.get(project, name)
    if recipe.record is None:
        raise NotFound(
            "The recipe has not been evaluated as it is now.",
            where=f"moa/{recipe.name}",
            remedy=f"Evaluate it: `moatelier moa evaluate {recipe.name}`.",
        )
    record = records.get(project, "mixture_decision", recipe.record)
    return record.model_dump(mode="json") | {"created_at": record.created_at.isoformat()}
