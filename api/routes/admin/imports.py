"""`/imports/openai`: what another service of the dialect had, taken over under its own ids. Nothing is fetched."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, UploadFile
from pydantic import ValidationError

from api.auth import Project
from api.bodies import Body
from api.eval_requests import EvalRequest
from api.file_shapes import file_json, need_purpose
from moatelier.errors import InvalidRequest
from store import datasets, imported, stored_evals

router = APIRouter(prefix="/imports/openai")
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
ENDED_JOB = ("succeeded", "failed", "cancelled")
ENDED_RUN = ("completed", "failed", "canceled")


@router.post("/files/{file_id}")
def take_file(
    file_id: str, project: Project, file: Annotated[UploadFile, File()], purpose: Annotated[str, Form()] = "fine-tune"
) -> dict[str, Any]:
    """Keep a file under the id that it had. Raises Conflict when that is another project's."""
    need_purpose(purpose)
    kept = datasets.add_file(project, file.filename or "file", file.file, purpose=purpose, id=_id(file_id))
    return file_json(kept)


def _id(value: Any) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InvalidRequest("The id is none.", where="id", remedy="Send letters, digits, dashes, at most 100.")
    return value


@router.post("")
def take(project: Project, body: Body) -> dict[str, Any]:
    """Keep a `fine_tuning.job`, `eval`, `eval.run` or `eval.run.output_item` as the other service told it.

    Raises:
        InvalidRequest: It is something else, has not ended, or is judged by what cannot be run here.
        NotFound: The eval of a run, or the run of an item, has not been taken.
        Conflict: The id is another's.
    """
    kind, id = body.get("object"), _id(body.get("id"))
    takers = {"fine_tuning.job": _job, "eval": _eval, "eval.run": _run, "eval.run.output_item": _item}
    if kind not in takers:
        raise InvalidRequest(f"A thing of kind {kind!r} cannot be taken.", where="object", remedy="Leave it out.")
    try:
        takers[kind](project, body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidRequest(f"It is not of the dialect's shape: {error!r}"[:300], where=id) from error
    return {"object": "import", "kind": kind, "id": id}


def _job(project: str, job: dict[str, Any]) -> None:
    _need_ended(job, ENDED_JOB)
    imported.keep_job(project, job)


def _need_ended(body: dict[str, Any], ends: tuple[str, ...]) -> None:
    if body.get("status") not in ends:
        what = f"It has not ended: {body.get('status')!r}."
        raise InvalidRequest(what, where=str(body["id"]), remedy="Export it again once it has.")


def _eval(project: str, body: dict[str, Any]) -> None:
    config = body["data_source_config"]
    wanted = {"type": config.get("type"), "item_schema": (config.get("schema") or {}).get("properties", {}).get("item")}
    wanted["include_sample_schema"] = "sample" in (config.get("schema") or {}).get("properties", {})
    criteria = [{k: v for k, v in each.items() if v is not None and k != "id"} for each in body["testing_criteria"]]
    asked = {"name": body.get("name") or "", "metadata": body.get("metadata"), "data_source_config": wanted}
    try:
        read = EvalRequest.model_validate(asked | {"testing_criteria": criteria})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"It cannot be judged here: {first['msg']}.", where=f"{body['id']}: {place}") from error
    stored_evals.create(
        project,
        id=body["id"],
        name=read.name or "Untitled",
        config=read.data_source_config.model_dump(mode="json"),
        criteria=[each.model_dump(mode="json", exclude_none=True) for each in read.testing_criteria],
        metadata=read.metadata or {},
    )


def _run(project: str, body: dict[str, Any]) -> None:
    _need_ended(body, ENDED_RUN)
    imported.keep_run(project, body)


def _item(project: str, body: dict[str, Any]) -> None:
    imported.keep_item(project, body)
