"""Exports: folders for other programs, each with `parity.json` beside its files, published whole or not at all.

<home>/exports/<adapter's digest>-<format>[-<numbers>]/
    ...             what the other program reads
    parity.json     a Parity: what another reader answered, and the SHA-256 of every other file

An export can be deleted at any time: it is made again when it is asked for.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError
from safetensors import SafetensorError

from moatelier.contracts import ExportSpec, Parity
from moatelier.errors import IntegrityError, NotFound, ResourceExhausted
from moatelier.faults import fault_point
from moatelier.ids import canonical_json, digest_file
from moatelier.job import write_atomically
from moatelier.settings import settings

PARITY = "parity.json"


def export_folder(spec: ExportSpec) -> Path:
    """Where an export lies, whether it is there or not."""
    numbers = f"-{spec.numbers}" if spec.format == "gguf" else ""
    return settings().home / "exports" / f"{spec.bundle}-{spec.format}{numbers}"


def read_export(folder: Path) -> Parity:
    """The parity of a published export, every byte of it checked.

    Raises:
        NotFound: It is not there.
        IntegrityError: A file was changed, is missing or is one too many.
    """
    remedy = "Export the adapter again."
    try:
        parity = Parity.model_validate_json((folder / PARITY).read_bytes())
    except OSError as error:
        raise NotFound("There is no such export.", where=str(folder), remedy=remedy) from error
    except ValidationError as error:
        raise IntegrityError("The export's parity is not readable.", where=str(folder), remedy=remedy) from error
    if _digests(folder) != parity.files:
        raise IntegrityError("The export's files are not those that were compared.", where=str(folder), remedy=remedy)
    return parity


@contextmanager
def drafting(spec: ExportSpec, size: int) -> Iterator[Path]:
    """A folder for an export in the making; it is gone afterwards unless `publish` has put it in its place.

    Args:
        spec: Of the export.
        size: About how many bytes it will have.

    Raises:
        ResourceExhausted: The disk has no room for it, or is full before it is done.
    """
    target = export_folder(spec)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        for left_over in target.parent.glob(f".draft-{target.name}-*"):
            shutil.rmtree(left_over)
        free = shutil.disk_usage(target.parent).free
        if free < size:
            raise ResourceExhausted(
                f"The export takes about {size / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free.",
                where=str(target.parent),
                remedy="Free some disk space; exports in that folder can be deleted and made again.",
            )
        draft = Path(tempfile.mkdtemp(prefix=f".draft-{target.name}-", dir=target.parent))
        try:
            yield draft
        except (OSError, SafetensorError) as error:  # safetensors hides the operating system's error in one of its own
            raise ResourceExhausted(
                f"The export could not be written: {error}.", where=str(target), remedy="Free some disk space."
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def publish(draft: Path, spec: ExportSpec, parity: Parity) -> Parity:
    """Put a draft whose parity was shown in its place, with `parity.json`; what was there before is replaced."""
    parity = parity.model_copy(update={"files": _digests(draft)})
    write_atomically(draft / PARITY, canonical_json(parity.model_dump(mode="json")))
    fault_point("export.publishing")
    target = export_folder(spec)
    shutil.rmtree(target, ignore_errors=True)
    draft.chmod(0o755)
    draft.rename(target)
    return parity


def _digests(folder: Path) -> dict[str, str]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != PARITY]
    return {file.relative_to(folder).as_posix(): digest_file(file) for file in files}
