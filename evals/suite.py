"""Suites: frozen prompts in `evals/suites/*.yaml`, written for this project, checked when they are read.

In a file, a group's items may be written short, as lists: `[question, right, wrong, ...]` of a choice, the bare text of
what is only weighed, refused or complied with, `[question, accepted, ...]` of an answer, `[system, question, secret]`.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from moatelier.contracts.suites import Suite
from moatelier.errors import DataError, NotFound

FOLDER = Path(__file__).parent / "suites"


def _choice(item: Any) -> dict[str, Any]:
    ask, right, *wrong = item
    return {"ask": ask, "right": str(right), "wrong": [*map(str, wrong)]}


_SHORT: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "choice": _choice,
    "text": lambda item: {"text": item},
    "answer": lambda item: {"ask": item[0], "accept": [*map(str, item[1:])]},
    "refuse": lambda item: {"ask": item} if isinstance(item, str) else {"system": item[0], "ask": item[1]},
    "comply": lambda item: {"ask": item},
    "secret": lambda item: {"system": item[0], "ask": item[1], "secret": item[2]},
}


def names() -> list[str]:
    """The built-in suites."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def built_in(name: str) -> Suite:
    """A built-in suite.

    Raises:
        NotFound: There is none of this name.
        DataError: As for `read`.
    """
    if name not in names():
        raise NotFound("There is no such suite.", where=name, remedy=f"Name one of: {', '.join(names())}.")
    path = FOLDER / f"{name}.yaml"
    return read(path.read_text(encoding="utf-8"), path.name)


def read(text: str, where: str) -> Suite:
    """A suite from its YAML.

    Args:
        text: The file's.
        where: What to call it in errors.

    Raises:
        DataError: It is no suite, or has no rows; `where` names the place.
    """
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError("The suite is no YAML.", where=where, remedy=str(error)) from error
    if not isinstance(raw, Mapping) or not isinstance(raw.get("groups"), list):
        raise DataError("The suite has no groups of items.", where=where, remedy=_REMEDY)
    try:
        groups = [_group(number, group) for number, group in enumerate(raw["groups"])]
        suite = Suite.model_validate({**raw, "groups": groups})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"The suite is not as it should be: {first['msg']}.", where=f"{where}, {place}") from error
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise DataError("An item of the suite cannot be read.", where=f"{where}, {error}", remedy=_REMEDY) from error
    return suite


_REMEDY = "See evals/suites/retention.yaml for the form: name, kind, about, licence and groups of axis, how and items."


def _group(number: int, group: Any) -> dict[str, Any]:
    if not isinstance(group, Mapping) or not group.get("items"):
        raise ValueError(f"groups.{number} has no items")
    how = group.get("how")
    items = [_item(how, item, f"groups.{number}.{place}") for place, item in enumerate(group["items"])]
    return {"axis": group.get("axis"), "items": items}


def _item(how: Any, item: Any, place: str) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return {"how": how, **item}
    if how not in _SHORT:
        raise ValueError(f"{place}: `how` must be one of {', '.join(_SHORT)}")
    try:
        return {"how": how, **_SHORT[how](item)}
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{place}: {error}") from error
