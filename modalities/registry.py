"""The modalities there are. A spec is registered once; its implementation is imported when it is asked for."""

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from moatelier.errors import Conflict, NotFound
from modalities.audio.config import AUDIO
from modalities.base import Modality
from modalities.imagetext.config import IMAGETEXT
from modalities.text.config import TEXT
from modalities.vision.config import VISION

_modalities: dict[str, Modality] = {}


def register(modality: Modality) -> None:
    """Make a modality known.

    Raises:
        Conflict: Another one has its name.
    """
    if (known := _modalities.get(modality.name)) is not None and known != modality:
        raise Conflict(
            f"A modality {modality.name!r} is registered already.",
            where=f"{known.data} and {modality.data}",
            remedy="Give the new one a name of its own.",
        )
    _modalities[modality.name] = modality


def get(name: str) -> Modality:
    """The modality of this name.

    Raises:
        NotFound: There is none.
    """
    if name not in _modalities:
        raise NotFound(
            f"There is no modality {name!r}.", where=name, remedy=f"Known are {', '.join(sorted(_modalities))}."
        )
    return _modalities[name]


def names() -> tuple[str, ...]:
    """All names, sorted."""
    return tuple(sorted(_modalities))


def of_row(row: Mapping[str, Any]) -> Modality:
    """Whose row this is, by the field that only its rows have.

    Raises:
        ValueError: Nobody's.
    """
    for modality in _modalities.values():
        if modality.content in row:
            return modality
    raise ValueError(f"a row with the fields {', '.join(map(str, row))} is of no modality")


def data_of(rows: bytes) -> Any:
    """The data module that wrote these JSON lines, by the first of them; text's for none at all.

    Raises:
        ValueError: It is no row.
    """
    first = next((line for line in rows.split(b"\n") if line), None)
    if first is None:
        return load(TEXT.data)
    row = json.loads(first)
    if not isinstance(row, Mapping):
        raise ValueError("the first line is no row")
    return load(of_row(row).data)


def load(path: str) -> Any:
    """Import what a spec names: `package.module` gives the module, `package.module:name` the object in it."""
    module, _, name = path.partition(":")
    loaded = import_module(module)
    return getattr(loaded, name) if name else loaded


register(TEXT)
register(VISION)
register(AUDIO)
register(IMAGETEXT)
