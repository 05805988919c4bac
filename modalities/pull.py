"""Bring a model onto this machine: `python -m modalities.pull list | show ID | pull ID [--json]`.

Download, check, convert once; after that nothing uses the network. Safe to call from several processes at once and
to kill at any time: the converted folder appears complete or not at all.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from moatelier.errors import MoatelierError, ResourceExhausted
from moatelier.job import write_atomically
from moatelier.settings import settings
from modalities import catalogue, registry
from modalities.catalogue import Entry
from modalities.convert import path_of
from modalities.sources import gather

Watch = Callable[[str, int, int | None], None]
"""Called with the phase (`download` or `convert`), bytes there and, when known, bytes in all."""


def pull(base_id: str, watch: Watch | None = None) -> str:
    """Make a model usable on this machine, unless it is already; returns its digest.

    Args:
        base_id: A catalogue id.
        watch: Told of the progress.

    Raises:
        NotFound: Unknown id.
        ModelUnavailable: No source can be reached, or this release cannot load the model's format.
        IntegrityError: A download, or a copy pulled earlier, has other bytes than it should.
        ResourceExhausted: The disk is too small.
    """
    entry = catalogue.get(base_id)
    convert = path_of(entry.convert, base_id)
    target = catalogue.target_folder(entry)
    locks = settings().cache / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{target.name}.lock"):
        if not (target / "pack.json").exists():
            _make(entry, convert, target, watch or _nobody)
    return catalogue.base_digest(base_id)


def _make(entry: Entry, convert: str, target: Path, watch: Watch) -> None:
    payload, made = (target.with_name(f".{target.name}.{part}") for part in ("payload", "made"))
    shutil.rmtree(target, ignore_errors=True)
    try:
        for folder in (payload, made):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        found = gather(entry, payload, lambda done, total: watch("download", done, total))
        watch("convert", 0, None)
        _require_space(made, (entry.parameters or 0) * 4)
        registry.load(convert)(found.folder, made, entry.context)
        record = catalogue.describe(made, entry.id, found.source)
        write_atomically(made / "pack.json", record.model_dump_json(indent=1).encode())
        made.rename(target)
        if found.leftover:
            found.leftover.unlink(missing_ok=True)
    except OSError as error:
        raise ResourceExhausted(
            f"The model could not be written: {error.strerror}.",
            where=str(error.filename or target),
            remedy="Free some disk space or let MOATELIER_CACHE name another folder.",
        ) from error
    finally:
        shutil.rmtree(payload, ignore_errors=True)
        shutil.rmtree(made, ignore_errors=True)


def _require_space(folder: Path, needed: int) -> None:
    """Refuse before a long conversion what would fail at its end; `needed` is in bytes, float32 at most."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceExhausted(
            f"The converted model needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left.",
            where=str(folder.parent),
            remedy="Free some disk space or let MOATELIER_CACHE name another folder.",
        )


def _nobody(phase: str, done: int, total: int | None) -> None:
    pass


def facts(entry: Entry) -> dict[str, Any]:
    """What `show` says of an entry: the catalogue's fields, whether it is here, where, and its digest."""
    here = catalogue.is_pulled(entry.id)
    return entry.model_dump(mode="json") | {
        "pulled": here,
        "folder": str(catalogue.target_folder(entry)),
        "digest": catalogue.base_digest(entry.id) if here else None,
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m modalities.pull", description="The models of the catalogue.")
    parser.add_argument("verb", choices=["list", "show", "pull"])
    parser.add_argument("id", nargs="?", help="a catalogue id (for show and pull)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(arguments)
    if asked.verb != "list" and not asked.id:
        parser.error(f"{asked.verb} needs an id")
    try:
        {"list": _list, "show": _show, "pull": _pull}[asked.verb](asked.id, asked.json)
    except MoatelierError as error:
        told = json.dumps({"error": error.to_dict()}) if asked.json else f"error [{error.code}]: {error}"
        print(told, file=sys.stderr)
        return 1
    return 0


def _list(_id: str | None, as_json: bool) -> None:
    rows = [
        entry.model_dump(mode="json", include={"id", "name", "kind", "licence", "parameters", "summary"})
        | {"pulled": catalogue.is_pulled(entry.id)}
        for entry in catalogue.entries()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table(box=None, header_style="bold")
    for name in ("id", "kind", "licence", "size", "here"):
        table.add_column(name, no_wrap=True)
    table.add_column("what")
    for row in rows:
        size = f"{row['parameters'] / 1e6:.0f} M" if row["parameters"] else ""
        here = "yes" if row["pulled"] else "no"
        table.add_row(row["id"], row["kind"], row["licence"], size, here, row["summary"])
    Console().print(table)


def _show(base_id: str, as_json: bool) -> None:
    shown = facts(catalogue.get(base_id))
    if as_json:
        print(json.dumps(shown))
        return
    shown["sources"] = ", ".join(str(source) for source in catalogue.get(base_id).sources)
    shown["files"] = ", ".join(shown["files"])
    width = max(map(len, shown))
    for name, value in shown.items():
        if value not in (None, ""):
            print(f"{name:<{width}}  {value}")


def _pull(base_id: str, as_json: bool) -> None:
    if as_json:
        digest = pull(base_id)
        print(json.dumps({"base": base_id, "digest": digest, "folder": str(catalogue.folder(base_id))}))
        return
    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    # The file is bound here, since a conversion turns a library's noise on sys.stderr away.
    console = Console(file=sys.stderr)
    with Progress(*columns, TimeRemainingColumn(), console=console, redirect_stderr=False) as bar:
        task = bar.add_task(base_id, total=None)

        def watch(phase: str, done: int, total: int | None) -> None:
            bar.update(task, description=f"{base_id}: {phase}")
            if phase == "download":
                bar.update(task, completed=done, total=total)

        digest = pull(base_id, watch)
    print(f"{base_id} {digest}\n{catalogue.folder(base_id)}")


if __name__ == "__main__":
    sys.exit(main())
