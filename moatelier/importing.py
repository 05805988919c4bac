"""`moatelier import-openai`: a folder, or a zip, of what an OpenAI account had, handed to the service thing by thing.

Any JSON file in it may hold one thing as the API tells it, a list of them, or a page (`{"data": [...]}`); JSON lines
may hold one a line. A file's bytes are found by its id, with or without a suffix, or by its file name. Training data
that nothing describes is taken too, under an id made of its bytes. Taking the same folder again changes nothing.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from moatelier.client import UPLOAD_TIMEOUT_S, Client
from moatelier.errors import DataError, MoatelierError

KINDS = ("fine_tuning.job", "eval", "eval.run", "eval.run.output_item")
"""In this order: a run needs its eval."""
PURPOSES = {"fine-tune", "assistants", "batch", "vision", "user_data", "evals"}
IMPORTED_FROM = "imported_from"
"""Metadata of a job that was trained here as another one was elsewhere."""
_DATA = (".jsonl", ".ndjson", ".csv")
_HEAD = 1 << 16
_MOST_UNPACKED = 50 * 2**30
console = Console()


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        things: Kind -> things of it by id.
        files: Descriptions of files by id.
        data: Files that hold no things, by where they lie.
        unread: What could not be read, and why.
    """

    things: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: list[Path] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Outcome:
    """What was taken, by kind, and what not, with the reason."""

    took: dict[str, list[str]] = field(default_factory=dict)
    left: list[tuple[str, str]] = field(default_factory=list)

    def take(self, kind: str, id: str) -> None:
        """Note a thing that the service has now."""
        self.took.setdefault(kind, []).append(id)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder itself, or what a zip holds, in a folder that is gone afterwards. Raises DataError."""
    if path.is_dir():
        yield path
        return
    if not zipfile.is_zipfile(path):
        raise DataError("This is neither a folder nor a zip.", where=str(path), remedy="Name the folder of the export.")
    with TemporaryDirectory() as place, zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > _MOST_UNPACKED:
            raise DataError("The zip unpacks to too much.", where=str(path), remedy="Unpack it, and name the folder.")
        archive.extractall(place)  # which drops `..` and leading slashes from names
        yield Path(place)


def look(folder: Path) -> Found:
    """Read a folder and all below it; nothing is sent."""
    found = Found()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        try:
            things = list(_things(path))
        except (ValueError, OSError, RecursionError) as error:
            found.unread.append((path.name, f"not JSON: {error}"))
            continue
        if not things:
            found.data.append(path)
        for thing in things:
            _sort_in(found, thing)
    return found


def _sort_in(found: Found, thing: dict[str, Any]) -> None:
    kind, id = thing["object"], str(thing.get("id"))
    if kind == "file":
        found.files[id] = thing
    elif kind in found.things:
        found.things[kind][id] = thing
    else:
        found.unread.append((id, f"things of kind {kind} are not taken"))


def _things(path: Path) -> Iterator[dict[str, Any]]:
    """The things that a file describes; none for a file of data."""
    if path.suffix == ".json":
        yield from _flat(json.loads(path.read_text(encoding="utf-8")))
    elif path.suffix in (".jsonl", ".ndjson"):
        with path.open(encoding="utf-8") as file:
            first = file.readline()
            if '"object"' not in first or not list(_flat(json.loads(first))):
                return
            yield from _flat(json.loads(first))
            for line in file:
                yield from _flat(json.loads(line)) if line.strip() else ()


def _flat(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for each in value:
            yield from _flat(each)
    elif isinstance(value, dict):
        if isinstance(value.get("data"), list) and value.get("object") in (None, "list", "page"):
            yield from _flat(value["data"])
        elif isinstance(value.get("object"), str) and value.get("id"):
            yield value


def run(client: Client, path: Path, *, train: str | None = None) -> Outcome:
    """Hand everything over.

    Args:
        client: Of the service.
        path: A folder or a zip.
        train: A base on which each job that succeeded is trained here too; None trains nothing.

    Raises:
        DataError: It is neither, or holds nothing of the kind.
    """
    with unpacked(path) as folder:
        found, outcome = look(folder), Outcome()
        if not (found.files or found.data or any(found.things.values())):
            raise DataError("Nothing in it can be taken.", where=str(path), remedy="docs/guide.md says what can.")
        outcome.left += found.unread
        _take_files(client, found, outcome)
    for kind in KINDS:
        for id, thing in found.things[kind].items():
            if _take(client, outcome, kind, id, thing) and kind == "fine_tuning.job" and train:
                _train(client, outcome, thing, train)
    return outcome


def _take_files(client: Client, found: Found, outcome: Outcome) -> None:
    by_name = {name: path for path in found.data for name in (path.name, path.stem)}
    used: set[Path] = set()
    for id, told in found.files.items():
        path = by_name.get(id) or by_name.get(str(told.get("filename")))
        if path is None:
            outcome.left.append((id, "its bytes are not in the folder"))
            continue
        used.add(path)
        _send(client, outcome, id, path, str(told.get("filename") or path.name), str(told.get("purpose")))
    for path in found.data:
        if path in used:
            continue
        if path.suffix in _DATA:
            _send(client, outcome, *_undescribed(path), path.name, "fine-tune")
        else:
            outcome.left.append((path.name, "nothing describes it"))


def _undescribed(path: Path) -> tuple[str, Path]:
    """A file that nothing describes: named by its id, or by one made of its bytes."""
    if path.stem.startswith("file-"):
        return path.stem, path
    with path.open("rb") as file:
        return f"file-{hashlib.file_digest(file, 'sha256').hexdigest()[:24]}", path


def _send(client: Client, outcome: Outcome, id: str, path: Path, name: str, purpose: str) -> None:
    if purpose not in PURPOSES:  # results and outputs of jobs
        purpose = "user_data"
    try:
        with path.open("rb") as file:
            sent = {"files": {"file": (name, file)}, "data": {"purpose": purpose}}
            client.call("POST", f"/imports/openai/files/{id}", timeout=UPLOAD_TIMEOUT_S, **sent)
        outcome.take("file", id)
    except MoatelierError as error:
        outcome.left.append((id, str(error)))


def _take(client: Client, outcome: Outcome, kind: str, id: str, thing: dict[str, Any]) -> bool:
    try:
        client.call("POST", "/imports/openai", json=thing)
    except MoatelierError as error:
        outcome.left.append((id, str(error)))
        return False
    outcome.take(kind, id)
    return True


def _train(client: Client, outcome: Outcome, job: dict[str, Any], base: str) -> None:
    """Train here what was trained there, once."""
    id = str(job["id"])
    known = client.call("GET", "/v1/fine_tuning/jobs", params={f"metadata[{IMPORTED_FROM}]": id})["data"]
    if job.get("status") != "succeeded" or known:
        return
    asked = {name: job[name] for name in ("training_file", "validation_file", "seed", "method") if job.get(name)}
    if "method" not in asked and job.get("hyperparameters"):
        asked["hyperparameters"] = job["hyperparameters"]
    parts = str(job.get("fine_tuned_model") or "").split(":")
    asked |= {"suffix": parts[3]} if len(parts) > 3 and parts[3] else {}
    try:
        made = client.call(
            "POST", "/v1/fine_tuning/jobs", json=asked | {"model": base, "metadata": {IMPORTED_FROM: id}}
        )
        outcome.take("training", str(made["id"]))
    except MoatelierError as error:
        outcome.left.append((id, f"it is not trained here: {error}"))


NAMES = {
    "file": "files",
    "fine_tuning.job": "fine-tuning jobs, as records: their models stayed where they are",
    "eval": "evals",
    "eval.run": "runs of evals",
    "eval.run.output_item": "items of runs",
    "training": "trainings were started here",
}


def tell(outcome: Outcome, as_json: bool) -> None:
    """Say what was taken and what not."""
    if as_json:
        left = [{"what": what, "why": why} for what, why in outcome.left]
        print(json.dumps({"took": outcome.took, "left": left}, ensure_ascii=False))
        return
    for kind, name in NAMES.items():
        if ids := outcome.took.get(kind):
            console.print(f"took {len(ids)} {name}", markup=False)
    for what, why in outcome.left:
        console.print(f"not taken: {what}: {why}", markup=False)
