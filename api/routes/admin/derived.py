"""What is made of adapters: `POST /adapters/mix`, and `POST /adapters/{name}/export` for other programs.

Both start a run, or give the one that the same wish started; its result is at the run's own address.
"""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse
from pydantic import Field

from api.archives import zipped
from api.auth import Project
from graphs import derivation
from moatelier.contracts import ExportFormat, ExportSpec, Mixing, MixMethod, MixSpec, Numbers
from moatelier.contracts.base import Contract
from moatelier.errors import Conflict
from modalities.exported import export_folder, read_export
from store import adapters, tasks

router = APIRouter(prefix="/adapters")


class Mixed(Contract):
    """Adapters to be mixed, by digest, model id or alias."""

    adapters: tuple[str, ...] = Field(min_length=2, max_length=16)
    method: MixMethod = "cat"
    weights: tuple[float, ...]
    density: float | None = Field(default=None, gt=0, le=1)
    rank: int | None = Field(default=None, ge=1, le=1024)
    seed: int = Field(default=0, ge=0, lt=2**31)
    name: str
    """The mixed one's suffix and alias."""


class Exported(Contract):
    """Files to be written."""

    format: ExportFormat
    numbers: Numbers | None = None
    """Of GGUF; default: f16."""


def _told(kind: str, run: tasks.Run) -> dict[str, Any]:
    told = {"object": f"adapter.{kind}", "run": run.id, "status": run.status, "error": run.error}
    return told | {"result": derivation.made(run)}


@router.post("/mix", status_code=202)
def mix(project: Project, body: Mixed) -> dict[str, Any]:
    """Mix adapters of one base into a new one.

    Raises:
        NotFound: There is no such adapter.
        InvalidRequest, Conflict: The name cannot be used.
    """
    parents = tuple(adapters.get(project, name).digest for name in body.adapters)
    told = body.model_dump(include={"method", "weights", "density", "rank", "seed"})
    spec = MixSpec(suffix=body.name, mixing=Mixing(parents=parents, **told))
    return _told("mix", derivation.mix(project, spec))


@router.get("/mix/{run_id}")
def get_mix(run_id: str, project: Project) -> dict[str, Any]:
    """How a mixing goes, and in the end the adapter and what it retains of each parent's task."""
    return _told("mix", derivation.of_adapter(project, run_id, "mix"))


@router.post("/{name:path}/export", status_code=202)
def export(name: str, project: Project, body: Exported) -> dict[str, Any]:
    """Have an adapter written for other programs; what cannot be written so is told by the run.

    Raises:
        NotFound: There is no such adapter.
    """
    digest = adapters.get(project, name).digest
    numbers = body.numbers or ("f16" if body.format == "gguf" else "f32")
    spec = ExportSpec(bundle=digest, format=body.format, numbers=numbers)
    return _told("export", derivation.export(project, spec)) | {"adapter": digest}


@router.get("/{name:path}/export/{run_id}")
def get_export(name: str, run_id: str, project: Project) -> dict[str, Any]:
    """How an export goes, and in the end its parity."""
    digest = adapters.get(project, name).digest
    return _told("export", derivation.of_adapter(project, run_id, "export", digest)) | {"adapter": digest}


@router.get("/{name:path}/export/{run_id}/files")
def files(name: str, run_id: str, project: Project) -> FileResponse:
    """The export as a zip archive, every byte checked against what was compared.

    Raises:
        Conflict: It is not ready.
        NotFound, IntegrityError: Its files were deleted or changed; ask for it again.
    """
    record = adapters.get(project, name)
    run = derivation.of_adapter(project, run_id, "export", record.digest)
    if run.status != "success":
        raise Conflict(f"The export is not ready: {run.status}.", where=run_id, remedy="Wait until it has succeeded.")
    spec = ExportSpec.model_validate((run.input or {})["spec"])
    folder = export_folder(spec)
    read_export(folder)
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return zipped(found, f"{record.suffix}-{record.digest[:8]}-{spec.format}")
