"""`/adapters`: what was tuned here, with its sealed manifest and signed records, and its bundle to take away."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse

from api.archives import zipped
from api.auth import Project
from api.pages import listing
from graphs import jobs
from moatelier.errors import Conflict, NotFound
from moatelier.settings import settings
from modalities.bundle import RECORDS, open_bundle
from serving import roster
from store import adapters, records, tasks

router = APIRouter(prefix="/adapters")


def _json(record: adapters.AdapterRecord) -> dict[str, Any]:
    return {"id": record.model_id, "object": "adapter", **record.model_dump(mode="json", exclude={"project"})}


def _records(project: str, digest: str) -> list[dict[str, Any]]:
    """With the moment as it was signed, so that digest and signature can be checked from what is handed out."""
    found = records.list_records(project, digest)
    return [record.model_dump(mode="json") | {"created_at": record.created_at.isoformat()} for record in found]


@router.get("")
def list_adapters(project: Project) -> dict[str, Any]:
    """The project's adapters, newest first, with the aliases that point at them."""
    return listing([_json(record) for record in adapters.list_adapters(project)], has_more=False)


@router.get("/{name:path}/export")
def export(name: str, project: Project) -> FileResponse:
    """The bundle as a zip archive, every byte checked against its seal, with the signed records about it.

    Raises:
        IntegrityError: A byte has changed.
    """
    record = adapters.get(project, name)
    folder = adapters.bundle_path(record.digest)
    manifest = record.manifest
    open_bundle(folder, base_digest=manifest.base_digest, template_digest=manifest.template_digest)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    named = f"{record.suffix}-{record.digest[:8]}"
    return zipped(files, named, {RECORDS: _records(project, record.digest)})


@router.get("/{name:path}/card")
def card(name: str, project: Project) -> dict[str, Any]:
    """The newest router card that the adapter's entering wrote.

    Raises:
        NotFound: It has not entered: routing was off.
    """
    record = adapters.get(project, name)
    try:
        return records.newest(project, "router_card", record.digest).body
    except NotFound as error:
        raise NotFound(
            "This adapter has no router card: routing was off when it was registered.",
            where=name,
            remedy=f"Run `moatelier models pull {settings().embedding}`, then `moatelier adapters route {name}`.",
        ) from error


@router.post("/{name:path}/route", status_code=202)
def enter(name: str, project: Project) -> dict[str, Any]:
    """Have an adapter enter `auto` again: who stayed out, or joined by another embedding model, may fit now.

    Raises:
        Conflict: It is tuned on another base than the one that is served.
    """
    record = adapters.get(project, name)
    if record.base not in settings().text_bases:
        raise Conflict(
            f"The adapter is tuned on {record.base}, and {settings().base} is served.",
            where=name,
            remedy="Serve its base: set MOATELIER_BASE.",
        )
    return _entering(record, jobs.enter(project, record.digest))


@router.get("/{name:path}/route/{run_id}")
def get_entering(name: str, run_id: str, project: Project) -> dict[str, Any]:
    """How an entering goes: its run's status, its error, and in the end the signed entry."""
    run = tasks.find_run(run_id)
    return _entering(adapters.get(project, name), tasks.get_run(project, run.thread, run_id))


def _entering(record: adapters.AdapterRecord, run: tasks.Run) -> dict[str, Any]:
    told = {"object": "adapter.route", "run": run.id, "adapter": record.digest, "status": run.status}
    try:
        entry = records.get(record.project, "router_profile", roster.record_key(record.digest, run.id)).body
    except NotFound:
        entry = None
    return told | {"error": run.error, "entry": entry}


@router.get("/{name:path}")
def get_adapter(name: str, project: Project) -> dict[str, Any]:
    """One adapter by digest, model id or alias, with its signed records."""
    record = adapters.get(project, name)
    return {**_json(record), "records": _records(project, record.digest)}
