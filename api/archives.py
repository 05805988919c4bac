"""Folders as zip archives, made on disk so that their size is not bound by memory."""

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from moatelier.errors import ResourceExhausted


def zipped(files: Mapping[str, Path], name: str, records: Mapping[str, Any] | None = None) -> FileResponse:
    """A download named `<name>.zip` (blocking).

    Args:
        files: Name in the archive -> file; folders are left out.
        name: Also the folder inside the archive.
        records: Name in the archive -> JSON value to add.

    Raises:
        ResourceExhausted: The disk is full.
    """
    descriptor, path = tempfile.mkstemp(suffix=".zip")
    try:
        with os.fdopen(descriptor, "wb") as target, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for inside, file in sorted(files.items()):
                if file.is_file():
                    archive.write(file, f"{name}/{inside}")
            for inside, value in (records or {}).items():
                archive.writestr(f"{name}/{inside}", json.dumps(value, indent=2, ensure_ascii=False))
    except OSError as error:
        os.unlink(path)
        raise ResourceExhausted(
            f"The archive could not be written: {error.strerror}.", where=path, remedy="Free some disk space."
        ) from error
    return FileResponse(
        path, filename=f"{name}.zip", media_type="application/zip", background=BackgroundTask(os.unlink, path)
    )
