"""Sealed adapter bundles: a folder whose every byte is named by one digest.

    <home>/adapters/<digest>/
        adapter_model.safetensors   the weights, in PEFT's format
        adapter_config.json         PEFT's configuration
        manifest.json               an AdapterManifest; its digest names the folder

The manifest holds no clock times, so the same training gives the same digest. Opening a bundle reads every byte; a
changed one, another base or another chat template is refused by name.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import ValidationError

from moatelier.contracts import AdapterManifest
from moatelier.errors import IntegrityError, NotFound
from moatelier.faults import fault_point
from moatelier.ids import canonical_json, digest_bytes, digest_file
from moatelier.job import write_atomically
from moatelier.settings import settings

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
RECORDS = "records.json"
"""An export has the signed records about the adapter beside its files; they are checked by their signatures."""

_REMEDY_BYTES = "Restore the bundle from its export or train the adapter again."


def bundle_folder(digest: str) -> Path:
    """Where the bundle with this digest lies, whether it is there or not."""
    return settings().home / "adapters" / digest


def seal(files: Mapping[str, bytes], **fields: Any) -> str:
    """Put an adapter's files under seal in the data directory, all or nothing.

    Sealing the same content again gives the same digest and leaves one bundle.

    Args:
        files: File name -> content.
        fields: The fields of `AdapterManifest` but for `files`.

    Returns:
        The manifest's digest.

    Raises:
        ResourceExhausted: The disk is full.
    """
    manifest = AdapterManifest(files={name: digest_bytes(data) for name, data in sorted(files.items())}, **fields)
    target = bundle_folder(manifest.digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / ".lock"):
        for left_over in target.parent.glob(".sealing-*"):
            shutil.rmtree(left_over)
        if _is_whole(target):
            return manifest.digest
        shutil.rmtree(target, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=".sealing-", dir=target.parent))
        draft.chmod(0o755)  # mkdtemp's 0700 would keep an engine under another account out
        try:
            for name, data in files.items():
                write_atomically(draft / name, data)
            write_atomically(draft / MANIFEST, canonical_json(manifest.model_dump(mode="json")))
            fault_point("train.sealing")
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        _sync_folder(target.parent)
    return manifest.digest


def read_manifest(folder: Path) -> AdapterManifest:
    """The manifest of a bundle, checked against the folder's name but not against the other files.

    Raises:
        NotFound: There is no bundle in the folder.
        IntegrityError: The manifest is not the one that gave the folder its name.
    """
    path = folder / MANIFEST
    try:
        manifest = AdapterManifest.model_validate(json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(
            "There is no adapter bundle here.",
            where=str(folder),
            remedy="Check the digest with `moatelier adapters list`.",
        ) from error
    except (ValueError, ValidationError) as error:
        raise IntegrityError("The bundle's manifest is not readable.", where=str(path), remedy=_REMEDY_BYTES) from error
    if _is_digest(folder.name) and manifest.digest != folder.name:
        raise IntegrityError(
            f"{MANIFEST} was changed: its digest is {manifest.digest}.", where=str(path), remedy=_REMEDY_BYTES
        )
    return manifest


def open_bundle(path: Path, *, base_digest: str, template_digest: str) -> AdapterManifest:
    """Check every byte of a bundle and that it belongs to this base and this chat template.

    Args:
        path: The bundle's folder.
        base_digest: Digest of the base it shall be loaded on.
        template_digest: Digest of the chat template that will render its prompts.

    Raises:
        NotFound: There is no bundle in the folder.
        IntegrityError: A file was changed, is missing or is one too many; or base or template are others. The
            message says which.
    """
    manifest = read_manifest(path)
    _check_files(path, manifest)
    if manifest.base_digest != base_digest:
        raise IntegrityError(
            f"The adapter was tuned on base {manifest.base} {manifest.base_digest[:12]}, not on {base_digest[:12]}.",
            where=str(path),
            remedy=f"Pull that base (`moatelier models pull {manifest.base}`), or tune the adapter again on this one.",
        )
    if manifest.template_digest != template_digest:
        raise IntegrityError(
            f"The adapter was tuned with chat template {manifest.template_digest[:12]}, not {template_digest[:12]}.",
            where=str(path),
            remedy="Serve it with the template it was tuned with, or tune it again with this one.",
        )
    return manifest


def _check_files(folder: Path, manifest: AdapterManifest) -> None:
    present = {entry.name for entry in folder.iterdir()} - {MANIFEST, RECORDS}
    for name in sorted(present ^ manifest.files.keys()):
        problem = "is not part of the bundle" if name in present else "is missing from the bundle"
        raise IntegrityError(f"{name} {problem}.", where=str(folder), remedy=_REMEDY_BYTES)
    for name, digest in manifest.files.items():
        if digest_file(folder / name) != digest:
            raise IntegrityError(
                f"{name} was changed: its bytes differ from what was sealed.",
                where=str(folder / name),
                remedy=_REMEDY_BYTES,
            )


def _is_whole(folder: Path) -> bool:
    try:
        _check_files(folder, read_manifest(folder))
    except (NotFound, IntegrityError):
        return False
    return True


def _is_digest(name: str) -> bool:
    return len(name) == 64 and not set(name) - set("0123456789abcdef")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
