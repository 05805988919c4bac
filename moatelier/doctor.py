"""`moatelier doctor`: what this machine has, what is missing, and the remedy for each."""

import importlib.metadata
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil

from moatelier.settings import settings
from moatelier.show import console
from moatelier.supervisor import base_url, is_ready

NEEDED_DISK_GB, NEEDED_MEMORY_GB = 2.0, 3.0
PACKAGES = ("torch", "transformers", "peft", "langgraph", "dbos", "fastapi")


class Check(NamedTuple):
    """One thing looked at."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def _python() -> Check:
    return Check("python", sys.version_info >= (3, 11), sys.version.split()[0], "Install Python 3.11 or newer.")


def _packages() -> Check:
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return Check("packages", not missing, ", ".join(found), f"Missing: {', '.join(missing)}. Run: make setup")


def _disk() -> Check:
    place = _existing(settings().home)
    free = shutil.disk_usage(place).free / 1e9
    return Check(
        "disk",
        free >= NEEDED_DISK_GB,
        f"{free:.1f} GB free at {place}",
        f"Free {NEEDED_DISK_GB} GB, or set MOATELIER_HOME.",
    )


def _memory() -> Check:
    free = psutil.virtual_memory().available / 1e9
    return Check(
        "memory", free >= NEEDED_MEMORY_GB, f"{free:.1f} GB available", f"Training wants {NEEDED_MEMORY_GB} GB."
    )


def _home() -> Check:
    place = _existing(settings().home)
    return Check(
        "data directory", os.access(place, os.W_OK), str(settings().home), "Make it writable, or set MOATELIER_HOME."
    )


def _base() -> Check:
    # The folder's name is the catalogue's business, one layer up; that it begins with the id is what we rely on.
    pulled = any((settings().cache / "packs").glob(f"{settings().base}-*/pack.json"))
    remedy = f"It is fetched by the first task, or now: moatelier models pull {settings().base}"
    return Check("base model", pulled, f"{settings().base} {'is here' if pulled else 'is not pulled'}", remedy)


def _service() -> Check:
    url = base_url(settings())
    if is_ready():
        return Check("service", True, f"ready on {url}")
    taken = [port for port in (settings().port, settings().engine_port) if _listens(port)]
    remedy = "Stop what listens there, or set MOATELIER_PORT and MOATELIER_ENGINE_PORT."
    return Check(
        "service", not taken, f"ports {taken} are taken" if taken else "not running; commands start one", remedy
    )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((settings().host, port)) == 0


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


CHECKS: tuple[Callable[[], Check], ...] = (_python, _packages, _disk, _memory, _home, _base, _service)


def examine(as_json: bool) -> int:
    """Run every check and tell; 1 when something is wrong that a first task would not mend by itself."""
    checks = [check() for check in CHECKS]
    if as_json:
        print(json.dumps([check._asdict() for check in checks]))
    else:
        for check in checks:
            mark = "[green]ok[/]  " if check.ok else "[red]look[/]"
            console.print(f"{mark} {check.name:<15} {check.found}")
            if not check.ok:
                console.print(f"     {'':<15} {check.remedy}")
    return int(any(not check.ok for check in checks if check.name != "base model"))
