"""What the command line has made of adapters: a mixed one with its retention table, files for other programs."""

import json
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from moatelier.client import Client
from moatelier.errors import InvalidRequest, MoatelierError
from moatelier.show import console

POLL_S = 0.3
BUNDLE = "bundle"
"""The sealed bundle as it is; every other format is made by a job and compared before it is handed out."""


def mix(client: Client, wish: dict[str, Any], as_json: bool) -> None:
    """Have adapters mixed, wait, and show what the mixed one retains of each parent's task.

    Raises:
        MoatelierError: Why they could not be mixed.
    """
    made = _waited(client, client.call("POST", "/adapters/mix", json=wish), "/adapters/mix")
    adapter = client.call("GET", f"/adapters/{made['adapter']}")
    if as_json:
        print(json.dumps(made | {"model": adapter["id"]}, ensure_ascii=False))
        return
    names = {record["digest"]: record["id"] for record in client.call("GET", "/adapters")["data"]}
    table = Table(title=f"{adapter['id']}, also known as {wish['name']}", title_justify="left")
    for heading in ("task of", "rows", "metric", "parent", "mixed", "difference"):
        table.add_column(heading)
    for line in made["table"]:
        table.add_row(*map(escape, _line(line, names)))
    console.print(table)


def _line(line: dict[str, Any], names: dict[str, str]) -> tuple[str, ...]:
    gap = line["comparison"]["difference"]
    low, high = (f"{100 * gap[end]:+.1f}" for end in ("low", "high"))
    return (
        names.get(line["parent"], line["parent"][:8]),
        f"{line['rows']} {line['split']}",
        line["metric"],
        f"{line['by_parent']['point']:.1%}",
        f"{line['by_mixed']['point']:.1%}",
        f"{100 * gap['point']:+.1f} points ({low} to {high})",
    )


def weights_of(text: str) -> list[float]:
    """Numbers between commas.

    Raises:
        InvalidRequest: One is no number.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        remedy = "Give one number for each adapter: --weights 0.5,0.5"
        raise InvalidRequest(f"{text!r} is not numbers.", where="--weights", remedy=remedy) from error


def export(client: Client, name: str, format: str, numbers: str | None, to: Path, as_json: bool) -> None:
    """Have an adapter written for other programs, and fetch it: as a zip where `to` ends so, else as a folder.

    Raises:
        MoatelierError: It cannot be written so, or another reader answers differently.
    """
    told: dict[str, Any] = {}
    path = f"/adapters/{name}/export"
    if format != BUNDLE:
        asked = client.call("POST", path, json={"format": format} | ({"numbers": numbers} if numbers else {}))
        runs = f"/adapters/{asked['adapter']}/export"
        told = _waited(client, asked, runs)
        path = f"{runs}/{asked['run']}/files"
    size = _fetch(client, path, to)
    if as_json:
        print(json.dumps({"file": str(to), "bytes": size} | ({"parity": told} if told else {}), ensure_ascii=False))
        return
    print(f"{to}: {size} bytes")
    if told:
        print(
            f"read back by {told['reader']}: {told['equal_answers']} of {told['prompts']} answers are ours, "
            f"largest difference {told['largest_difference']:.2g} (allowed {told['tolerance']:g})"
        )


def _waited(client: Client, asked: dict[str, Any], runs: str) -> dict[str, Any]:
    """The result of a run, once it is there."""
    told = asked
    while told["status"] in ("pending", "running"):  # as long as jobs before it take
        time.sleep(POLL_S)
        told = client.call("GET", f"{runs}/{asked['run']}")
    if told["error"]:
        raise MoatelierError.from_dict(told["error"])
    return dict(told["result"])


def _fetch(client: Client, path: str, to: Path) -> int:
    """Download an archive, all or nothing; its size in bytes."""
    if to.suffix == ".zip":
        draft = to.with_name(f".{to.name}.part")
        try:
            with draft.open("wb") as file:
                size = client.download(path, file)
            draft.replace(to)
        finally:
            draft.unlink(missing_ok=True)
        return size
    with tempfile.TemporaryFile(dir=to.absolute().parent) as packed:
        size = client.download(path, packed)
        to.mkdir(exist_ok=True)
        with zipfile.ZipFile(packed) as archive:
            for member in archive.infolist():
                member.filename = member.filename.partition("/")[2]  # in the archive all lies in a folder of its own
                archive.extract(member, to)
    return size
