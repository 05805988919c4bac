"""Texts with places, `{{ item.question }}`: filled from an item and a sample by looking up, never by evaluating."""

import json
import re
from collections.abc import Mapping
from typing import Any

from moatelier.errors import DataError

_PLACE = re.compile(r"\{\{([^{}]*)\}\}")
_PATH = re.compile(r"(?:item|sample)(?:\.\w+|\[\d+\])*")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")


def filled(text: str, known: Mapping[str, Any]) -> str:
    """The text with its places filled; what is no text is written as JSON.

    Args:
        text: With places such as `{{ item.tags[0] }}` and `{{ sample.output_text }}`.
        known: `item`, and `sample` where something was said.

    Raises:
        DataError: A place names nothing.
    """
    return _PLACE.sub(lambda match: _shown(looked_up(match[1].strip(), known)), text)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def looked_up(path: str, known: Mapping[str, Any]) -> Any:
    """What a path such as `item.question` leads to. Raises DataError where it leads nowhere."""
    if not _PATH.fullmatch(path):
        raise _nowhere(path)
    root = re.match(r"\w+", path)
    assert root is not None, "the pattern begins with a word"
    value: Any = known.get(root[0])
    for name, place in _STEP.findall(path):
        value = _stepped(value, name, place, path)
    return value


def _stepped(value: Any, name: str, place: str, path: str) -> Any:
    if name and isinstance(value, Mapping) and name in value:
        return value[name]
    if place and isinstance(value, list) and int(place) < len(value):
        return value[int(place)]
    raise _nowhere(path)


def _nowhere(path: str) -> DataError:
    return DataError(
        f"There is no {path!r} in the item.",
        where=path,
        remedy="Name a field of the item, as `item.field`, or `sample.output_text` where a model is asked.",
    )
